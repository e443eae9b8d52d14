package registry

// patternExplanations are the help texts of migration-check's codes; the one
// of duplicate-key is validate-config's.
var patternExplanations = []Explanation{
	{PatternServicesMap, "services is a map of names",
		"Services are a list, each with its name. Two entries of a map with the same key would be one to a YAML\n" +
			"reader, silently.",
		"services:\n  example:\n    type: api\n    category: demo\n    operations: [{ name: run }]\n",
		"services:\n  - name: example\n    type: api\n    category: demo\n    operations: [{ name: run }]\n"},
	{PatternServiceLevel, "a field stands at the service's own level",
		"What a runner needs stands under runner_config: base_url, auth_type, timeout and the rest. At the service's\n" +
			"own level these fields are unknown, and an unknown field is an error.",
		"base_url: https://api.example.com\nrunner_config: {}\n", "runner_config:\n  base_url: https://api.example.com\n"},
	{PatternBearerToken, "a token is given instead of its variable's name",
		"A token in the file is known to everybody who can read it. auth_config names the variable, and the agent\n" +
			"reads it when a job runs.",
		"runner_config:\n  base_url: https://api.example.com\n  bearer_token: \"${PAYMENTS_TOKEN}\"\n",
		"runner_config:\n  base_url: https://api.example.com\n  auth_type: bearer\n  auth_config: { token_env_var: PAYMENTS_TOKEN }\n"},
	{PatternRetryPolicy, "retry_policy is called retry_config",
		"It stands under runner_config, with max_retries, backoff_factor and retry_status_codes. Under another name\n" +
			"there would be no retries.",
		"runner_config:\n  base_url: https://api.example.com\n  retry_policy: { max_retries: 3 }\n",
		"runner_config:\n  base_url: https://api.example.com\n  retry_config: { max_retries: 3 }\n"},
	{PatternAllowList, "an allow-list stands under runner_config",
		"What a service may do stands under security_policy, apart from what it does, so that a review sees it.\n" +
			"Under runner_config it would permit nothing.",
		"runner_config:\n  base_url: https://api.example.com\n  allowed_domains: [api.example.com]\n",
		"runner_config:\n  base_url: https://api.example.com\nsecurity_policy:\n  allowed_domains: [api.example.com]\n"},
	{PatternStringVolume, "a volume is a string",
		"A volume has host_path, container_path and mode. In the short form a missing :ro makes it writable without\n" +
			"anybody having said so; the rewritten one says rw, as that form means.",
		"execution_type: docker\nrunner_config:\n  image: \"python:3.12\"\n  volumes: [\"/models:/models:ro\"]\n",
		"execution_type: docker\nrunner_config:\n  image: \"python:3.12\"\n  volumes: [{ host_path: \"/models\", container_path: \"/models\", mode: ro }]\n"},
	{PatternMemorySize, "memory_size is called memory_mb",
		"The unit, MiB, is part of the name.",
		"execution_type: serverless\nrunner_config:\n  function_name: resize\n  region: us-east-1\n  memory_size: 512\n",
		"execution_type: serverless\nrunner_config:\n  function_name: resize\n  region: us-east-1\n  memory_mb: 512\n"},
	{PatternEnvVars, "env_vars is called environment",
		"It stands under runner_config and holds all that a program or container gets, besides SPECQL_*.",
		"execution_type: docker\nrunner_config:\n  image: \"python:3.12\"\n  env_vars: { REGION: eu }\n",
		"execution_type: docker\nrunner_config:\n  image: \"python:3.12\"\n  environment: { REGION: eu }\n"},
	{PatternUpperCaseType, "execution_type is not in lower case",
		"It is read as the lower-case word. Written so, queries and filters find the service by it.",
		"execution_type: HTTP\n", "execution_type: http\n"},
	{PatternMissingCategory, "the service has no category",
		"Lists and filters go by it, and it is required. It changes nothing about how jobs run, so --fix writes\n" +
			"uncategorized; choose a better word.",
		"services:\n- name: example\n  type: api\n  operations: [{ name: run }]\n",
		"services:\n- name: example\n  category: demo\n  type: api\n  operations: [{ name: run }]\n"},
	{PatternMissingLimits, "the service has no resource limits",
		"Without cpu_cores, memory_mb and timeout_seconds one job can take the whole host, and a function's budget\n" +
			"has no end without cost_limits. The console's page Services shows how much a service\n" +
			"has needed at most.",
		"execution_type: docker\nrunner_config: { image: \"python:3.12\" }\n",
		"execution_type: docker\nrunner_config: { image: \"python:3.12\" }\nsecurity_policy: { resource_limits: { cpu_cores: 1.0, memory_mb: 512, timeout_seconds: 600 } }\n"},
	{PatternLatestTag, "an image is not pinned",
		"The tag latest, or none, is whatever somebody pushed last: the same job runs other code tomorrow. Write a\n" +
			"version's tag or, better, the digest.",
		"execution_type: docker\nrunner_config: { image: \"python:latest\" }\n", "execution_type: docker\nrunner_config: { image: \"python:3.12\" }\n"},
	{PatternLiteralSecret, "a secret is written into the file",
		"A registry is kept in Git and shown on screens. Name the secret: ${VARIABLE}, ${file:/run/secrets/name} or\n" +
			"${cred:name}. Then change it, since it has been in the file.",
		"runner_config:\n  base_url: https://api.example.com\n  headers: { X-Api-Key: 4f1c9a22 }\n",
		"runner_config:\n  base_url: https://api.example.com\n  headers: { X-Api-Key: \"${API_KEY:-}\" }\n"},
	{PatternRiskyCommand, "allowed_commands permits a program that can do anything",
		"A shell, sudo, rm, curl and their like turn one permitted command into all of them. Permit the program that\n" +
			"does the work; where a script needs its interpreter, leave command_from_input out.",
		"execution_type: shell\nrunner_config: { working_directory: / }\nsecurity_policy: { allowed_commands: [/usr/bin/sudo] }\n",
		"execution_type: shell\nrunner_config: { working_directory: / }\nsecurity_policy: { allowed_commands: [/usr/bin/cat] }\n"},
	{PatternRelativeCommand, "a command is not an absolute path",
		"Which program a bare name means depends on a search path. An absolute path is one program.",
		"execution_type: shell\nrunner_config: { working_directory: / }\nsecurity_policy: { allowed_commands: [python3] }\n",
		"execution_type: shell\nrunner_config: { working_directory: / }\nsecurity_policy: { allowed_commands: [/usr/bin/python3] }\n"},
}
