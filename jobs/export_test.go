package jobs

// The statements of an exchange that read jobs.tb_job_run, by what they do.
var ExchangeSQL = map[string]string{
	"claim": claimSQL, "claim from one lane": claimLaneSQL, "complete": completeSQL, "complete what moved": completeMovedSQL,
	"fail": failSQL, "keep logs": keepLogSQL, "hand back": handBackSQL, "hand back unstarted": handBackUnstartedSQL,
}
