package actions

// The actions' ids.
const (
	Palette ID = "palette"
	Help    ID = "help"
	Pause   ID = "pause"
	Undo    ID = "undo"
	Copy    ID = "copy"
	Export  ID = "export"
	Stop    ID = "stop"
	Suspend ID = "suspend"
	Quit    ID = "quit"

	PageMigrate  ID = "page.migrate"
	PageLive     ID = "page.live"
	PageJobs     ID = "page.jobs"
	PageServices ID = "page.services"
	PageAgents   ID = "page.agents"
	PageAudit    ID = "page.audit"

	MigrateAct    ID = "migrate.act"
	MigrateWaive  ID = "migrate.waive"
	MigrateUnsign ID = "migrate.unsign"
	MigrateNext   ID = "migrate.next"
	MigrateWhole  ID = "migrate.whole"
	MigrateBack   ID = "migrate.back"

	LiveSwitch ID = "live.switch"
	LiveRange  ID = "live.range"
	LiveNext   ID = "live.next"
	LivePrev   ID = "live.previous"
	LiveOpen   ID = "live.jobs"
	LiveLeave  ID = "live.leave"

	JobsOpen    ID = "jobs.open"
	JobsFilter  ID = "jobs.filter"
	JobsMark    ID = "jobs.mark"
	JobsSort    ID = "jobs.sort"
	JobsAll     ID = "jobs.all"
	JobsRetry   ID = "jobs.retry"
	JobsCancel  ID = "jobs.cancel"
	JobsEnqueue ID = "jobs.enqueue"

	JobFollow  ID = "job.follow"
	JobRetry   ID = "job.retry"
	JobCancel  ID = "job.cancel"
	JobService ID = "job.service"
	JobBack    ID = "job.back"

	ServicesJobs     ID = "services.jobs"
	ServicesDiff     ID = "services.diff"
	ServicesSort     ID = "services.sort"
	ServicesBack     ID = "services.back"
	ServicesOpen     ID = "services.open"
	ServicesSwitch   ID = "services.switch"
	ServicesFallback ID = "services.fallback"

	AgentsPause  ID = "agents.pause"
	AgentsDrain  ID = "agents.drain"
	AgentsResume ID = "agents.resume"
	AgentsReload ID = "agents.reload"

	AuditOpen   ID = "audit.open"
	AuditFilter ID = "audit.filter"
	AuditBack   ID = "audit.back"
)

var all = []Action{
	{ID: Palette, Place: Everywhere, Keys: []string{":"}, Title: "actions", Does: "Find any action by its words and do it", Moves: true},
	{ID: Pause, Place: Everywhere, Keys: []string{"p"}, Title: "pause", Does: "Stop refreshing, or go on", Quiet: true},
	{ID: Undo, Place: Everywhere, Keys: []string{"u"}, Title: "undo", Does: "Take back the last reversible action of this console", Changes: true, Quiet: true},
	{ID: Copy, Place: Everywhere, Keys: []string{"y"}, Title: "copy", Does: "Copy what is under the cursor to your own clipboard, also through SSH", Quiet: true},
	{ID: Export, Place: Everywhere, Keys: []string{"e"}, Title: "export", Does: "Write what the page lists to a CSV or JSON file", Quiet: true},
	{ID: Stop, Place: Everywhere, Keys: []string{"!"}, Title: "emergency stop", Does: "Stop all claiming of every agent at once, until resume", Changes: true, Quiet: true, Command: "emergency-stop"},
	{ID: Help, Place: Everywhere, Keys: []string{"?"}, Title: "help", Does: "Show every key that works here", Moves: true},
	{ID: Suspend, Place: Everywhere, Keys: []string{"ctrl+z"}, Title: "suspend", Does: "Return to the shell until fg", Quiet: true, Moves: true},
	{ID: Quit, Place: Everywhere, Keys: []string{"q"}, Title: "quit", Does: "Leave the console; nothing stops with it"},

	{ID: PageMigrate, Place: Everywhere, Keys: []string{"1"}, Title: "Migrate", Does: "Go to the page Migrate", Quiet: true},
	{ID: PageLive, Place: Everywhere, Keys: []string{"2"}, Title: "Live", Does: "Go to the page Live", Quiet: true, Command: "queue-status"},
	{ID: PageJobs, Place: Everywhere, Keys: []string{"3"}, Title: "Jobs", Does: "Go to the page Jobs", Quiet: true, Command: "jobs list"},
	{ID: PageServices, Place: Everywhere, Keys: []string{"4"}, Title: "Services", Does: "Go to the page Services", Quiet: true},
	{ID: PageAgents, Place: Everywhere, Keys: []string{"7"}, Title: "Agents", Does: "Go to the page Agents", Quiet: true, Command: "agents"},
	{ID: PageAudit, Place: Everywhere, Keys: []string{"8"}, Title: "Audit", Does: "Go to the page Audit", Quiet: true},

	// What may be changed before the migration depends on the step: the page says.
	{ID: MigrateAct, Place: Migrate, Keys: []string{"enter"}, Title: "do it", Does: "Do what the step under the cursor asks for, after its plan", Command: "migrate"},
	{ID: MigrateWaive, Place: Migrate, Keys: []string{"w"}, Title: "waive", Does: "Go on without the step, with a name and a note", Changes: true, Command: "migrate waive"},
	{ID: MigrateUnsign, Place: Migrate, Keys: []string{"x"}, Title: "take back", Does: "Take a signature or a waiver back: the evidence decides again", Changes: true, Command: "migrate unsign"},
	{ID: MigrateNext, Place: Migrate, Keys: []string{"n"}, Title: "next open step", Does: "Move the cursor to the next step that can be done", Moves: true},
	{ID: MigrateWhole, Place: Migrate, Keys: []string{"tab"}, Title: "step in full", Does: "On a narrow screen, show the step in place of the list, or the list again", Moves: true, Quiet: true},
	{ID: MigrateBack, Place: Migrate, Keys: []string{"esc"}, Title: "list", Does: "Go back to the list", Moves: true, Quiet: true},

	{ID: LiveOpen, Place: Live, Keys: []string{"enter"}, Title: "jobs", Does: "Open the jobs behind the figures under the cursor"},
	{ID: LiveRange, Place: Live, Keys: []string{"h"}, Title: "range", Does: "Look back on 15 minutes, 1, 6 or 24 hours"},
	{ID: LiveSwitch, Place: Live, Keys: []string{"t"}, Title: "switch a type", Does: "Switch an execution type on or off, after its plan", Changes: true, Command: "execution-types"},
	{ID: LiveNext, Place: Live, Keys: []string{"tab"}, Title: "next", Does: "Move the cursor to the next type, service or held lane", Moves: true},
	{ID: LivePrev, Place: Live, Keys: []string{"shift+tab"}, Title: "previous", Does: "Move the cursor to the one before", Moves: true, Quiet: true},
	{ID: LiveLeave, Place: Live, Keys: []string{"esc"}, Title: "no cursor", Does: "Take the cursor away", Moves: true, Quiet: true},

	{ID: JobsOpen, Place: Jobs, Keys: []string{"enter"}, Title: "detail", Does: "Open the job under the cursor", Command: "jobs show"},
	{ID: JobsFilter, Place: Jobs, Keys: []string{"/"}, Title: "filter", Does: "Select jobs by the guide's words, such as type:shell status:failed age>1h"},
	{ID: JobsMark, Place: Jobs, Keys: []string{"space"}, Title: "mark", Does: "Mark the job, or take its mark away"},
	{ID: JobsRetry, Place: Jobs, Keys: []string{"r"}, Title: "retry", Does: "Put failed and cancelled jobs back to pending", Changes: true, Command: "jobs retry"},
	{ID: JobsCancel, Place: Jobs, Keys: []string{"c"}, Title: "cancel", Does: "Cancel jobs that wait, will be retried or run", Changes: true, Command: "jobs cancel"},
	{ID: JobsEnqueue, Place: Jobs, Keys: []string{"n"}, Title: "enqueue", Does: "Put a new job in the queue, by a form of its operation's fields", Changes: true, Command: "jobs enqueue"},
	{ID: JobsSort, Place: Jobs, Keys: []string{"s"}, Title: "sort", Does: "List the newest or the oldest jobs first"},
	{ID: JobsAll, Place: Jobs, Keys: []string{"esc"}, Title: "all jobs", Does: "Take the marks away, then the filter", Moves: true},

	{ID: JobBack, Place: Job, Keys: []string{"esc", "backspace"}, Title: "back", Does: "Go back to the list", Moves: true},
	{ID: JobFollow, Place: Job, Keys: []string{"f"}, Title: "follow", Does: "Follow what the job's attempt writes, or stop"},
	{ID: JobRetry, Place: Job, Keys: []string{"r"}, Title: "retry", Does: "Retry this job", Changes: true, Command: "jobs retry"},
	{ID: JobCancel, Place: Job, Keys: []string{"c"}, Title: "cancel", Does: "Cancel this job", Changes: true, Command: "jobs cancel"},
	{ID: JobService, Place: Job, Keys: []string{"o"}, Title: "its service", Does: "Open the job's service"},

	{ID: ServicesOpen, Place: Services, Keys: []string{"enter"}, Title: "detail", Does: "Open the service under the cursor"},
	{ID: ServicesJobs, Place: Services, Keys: []string{"o"}, Title: "jobs", Does: "Open the service's jobs"},
	{ID: ServicesSwitch, Place: Services, Keys: []string{"t"}, Title: "on/off", Does: "Switch the service on or off, after its plan", Changes: true},
	{ID: ServicesFallback, Place: Services, Keys: []string{"b"}, Title: "fallback", Does: "Run the service over http, or as its own type again", Changes: true},
	{ID: ServicesDiff, Place: Services, Keys: []string{"d"}, Title: "changes", Does: "Show what the last registry versions changed", Command: "registry diff"},
	{ID: ServicesSort, Place: Services, Keys: []string{"s"}, Title: "sort", Does: "Sort by the next column"},
	{ID: ServicesBack, Place: Services, Keys: []string{"esc"}, Title: "back", Does: "Go back to the list", Moves: true, Quiet: true},

	{ID: AgentsDrain, Place: Agents, Keys: []string{"d"}, Title: "drain", Does: "Let agents end their jobs and take no more", Changes: true, Command: "agents drain"},
	{ID: AgentsPause, Place: Agents, Keys: []string{"w"}, Title: "hold", Does: "Let agents claim no more jobs; those that run go on", Changes: true, Command: "agents pause"},
	{ID: AgentsResume, Place: Agents, Keys: []string{"r"}, Title: "resume", Does: "Let paused or drained agents claim again", Changes: true, Command: "agents resume"},
	{ID: AgentsReload, Place: Agents, Keys: []string{"l"}, Title: "reload", Does: "Have agents look at their registry file now", Changes: true, Command: "agents reload"},

	{ID: AuditOpen, Place: Audit, Keys: []string{"enter"}, Title: "detail", Does: "Open the entry under the cursor: before, after and why"},
	{ID: AuditFilter, Place: Audit, Keys: []string{"/"}, Title: "filter", Does: "Select entries by a word of who, what or why"},
	{ID: AuditBack, Place: Audit, Keys: []string{"esc"}, Title: "back", Does: "Go back, or show every entry", Moves: true, Quiet: true},
}
