package registry

import (
	"fmt"
	"strings"
)

// Explanation is the help text of a code, as `specql-tui explain CODE` shows.
type Explanation struct {
	Code  Code   `json:"code"`
	Title string `json:"title"`
	Text  string `json:"text"`  // what is wrong with it, and why it matters
	Wrong string `json:"wrong"` // a service's lines, or a whole file, that get the code
	Right string `json:"right"` // the same without it
}

// Explain finds a code's help text; the code may be written in any case.
func Explain(code string) (Explanation, bool) {
	for _, e := range explanations {
		if strings.EqualFold(string(e.Code), strings.TrimSpace(code)) {
			return e, true
		}
	}
	return Explanation{}, false
}

// Explanations lists all help texts: of validate-config's codes first, then
// of migration-check's.
func Explanations() []Explanation { return explanations }

// NearestCode is the code that a misspelt one probably meant; "" is none.
func NearestCode(code string) string {
	words := make([]string, len(explanations))
	for i, e := range explanations {
		words[i] = string(e.Code)
	}
	return nearest(code, words)
}

// String is the help text as a terminal shows it.
func (e Explanation) String() string {
	return fmt.Sprintf("%s: %s\n\n%s\n\nWrong:\n\n%s\nRight:\n\n%s", e.Code, e.Title, e.Text, indented(e.Wrong), indented(e.Right))
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}

// Explained wraps an example's lines into a whole file, so that it can be
// checked as it stands.
func Explained(example string) string {
	if strings.Contains(example, "services:") || strings.Contains(example, "alerts:") || strings.Contains(example, "actions:") {
		return example
	}
	var b strings.Builder
	b.WriteString("services:\n- name: example\n")
	for _, part := range [][2]string{
		{"type:", "  type: api\n"}, {"category:", "  category: demo\n"}, {"operations:", "  operations: [{ name: run }]\n"},
		{"runner_config:", "  runner_config: { base_url: \"https://api.example.com\" }\n"},
	} {
		if !strings.HasPrefix(example, part[0]) && !strings.Contains(example, "\n"+part[0]) {
			b.WriteString(part[1])
		}
	}
	for line := range strings.Lines(example) {
		b.WriteString("  " + line)
	}
	return b.String()
}

var explanations = append(faultExplanations, patternExplanations...)

var faultExplanations = []Explanation{
	{CodeSyntax, "the file cannot be read as YAML",
		"The text breaks YAML's own rules, or uses what a registry refuses because a small text could become\n" +
			"endless work: tags (!name), more than 64 levels, aliases that multiply. Nothing of the part in question\n" +
			"can be checked; the rest of the file is. Most often it is the indentation, a tab, a missing quote,\n" +
			"or a value with \": \" in it that needs quotes.",
		"runner_config:\n  base_url: \"https://api.example.com\n",
		"runner_config:\n  base_url: \"https://api.example.com\"\n"},
	{CodeUnknownField, "there is no such field here",
		"Each field has one place and one spelling. An unknown one is never ignored, since it was meant to do\n" +
			"something: a misspelt limit is no limit. The help line names the nearest field, or the place where a\n" +
			"field of this name belongs.",
		"runner_config:\n  base_url: https://api.example.com\n  time_out: 30\n",
		"runner_config:\n  base_url: https://api.example.com\n  timeout: 30\n"},
	{CodeWrongType, "a value is of another type than its field",
		"A list where a string belongs, a text where a number belongs. Durations in timeout fields are whole\n" +
			"seconds and sizes whole MiB or bytes, without a unit.",
		"runner_config:\n  base_url: https://api.example.com\n  timeout: 30s\n",
		"runner_config:\n  base_url: https://api.example.com\n  timeout: 30\n"},
	{CodeDuplicateKey, "a key stands twice in one mapping",
		"YAML readers disagree about which of the two counts, so a policy could read differently to two of them.\n" +
			"Keep one. `migration-check --fix` removes the second where both say the same,\nand leaves its comments.",
		"category: demo\ncategory: finance\n", "category: finance\n"},
	{CodeDuplicateName, "two things have the same name",
		"A service's name is its identity in the jobs table and is compared without case. Operations are told\n" +
			"apart exactly, alerts without case.",
		"operations:\n- name: charge\n- name: charge\n", "operations:\n- name: charge\n- name: refund\n"},
	{CodeMissing, "a required field is not there",
		"Each service has name, type, category and operations; what a type needs besides is said by the message:\n" +
			"an image for docker, function_name and region for serverless, allowed_commands for shell, and base_url\n" +
			"where execution_type: http is written out.",
		"execution_type: docker\nrunner_config: {}\n", "execution_type: docker\nrunner_config: { image: \"python:3.12\" }\n"},
	{CodeRange, "a number is outside of its bounds",
		"The bounds stand in the message. Lambda, for one, ends every function after 900 seconds.",
		"concurrency: -1\n", "concurrency: 4\n"},
	{CodeEnum, "a value is none of those that the field takes",
		"The field takes certain words, or values of a certain form: an absolute path, a host, a URL. The help\n" +
			"line lists them or shows the nearest.",
		"runner_config: { base_url: \"https://api.example.com\", auth_type: beaver }\n",
		"runner_config: { base_url: \"https://api.example.com\", auth_type: none }\n"},
	{CodeMisplaced, "a field means nothing for this type of service",
		"An image does nothing for a shell service. It is an error, since somebody expects it to do something; for\n" +
			"a service that is explicitly http it is a warning, because setting execution_type back to http is how\n" +
			"a service is phased out.",
		"execution_type: shell\nrunner_config: { image: \"python:3.12\", working_directory: /srv }\nsecurity_policy: { allowed_commands: [/usr/bin/cat] }\n",
		"execution_type: shell\nrunner_config: { working_directory: /srv }\nsecurity_policy: { allowed_commands: [/usr/bin/cat] }\n"},
	{CodeNotAllowed, "the service's own policy refuses what the service asks for",
		"security_policy bounds what runner_config and operations may say. Every job of such a service would be\n" +
			"refused, so the file is.",
		"security_policy: { allowed_domains: [other.example.com] }\n",
		"security_policy: { allowed_domains: [api.example.com] }\n"},
	{CodeConflict, "two fields contradict each other",
		"Both cannot be meant. The message names the two.",
		"execution_type: docker\nrunner_config: { image: \"python:3.12\", network_mode: bridge }\n",
		"execution_type: docker\nrunner_config: { image: \"python:3.12\", network_mode: none }\n"},
	{CodeSecret, "a secret is written into the file",
		"A registry is kept in Git, shown on screens and copied; a secret in it is known to all of them. Name it\n" +
			"instead: ${VARIABLE}, ${file:/run/secrets/name}, ${cred:name} (a systemd credential), or auth_config's\n" +
			"…_env_var fields. Then change the secret: it has been in the file.",
		"runner_config:\n  base_url: https://api.example.com\n  headers: { X-Api-Key: 4f1c9a22 }\n",
		"runner_config:\n  base_url: https://api.example.com\n  headers: { X-Api-Key: \"${API_KEY:-}\" }\n"},
	{CodeUnsetVariable, "an environment variable or secret is not there",
		"${NAME} without a default needs the variable, ${file:…} the file, ${cred:…} the credential. It is an error\n" +
			"where the value is needed to read the file, and a warning for …_env_var fields, which are read when a job\n" +
			"runs. Check where the agent runs: its environment is not your shell's.",
		"runner_config: { base_url: \"${NOT_SET_ANYWHERE_BASE}\" }\n",
		"runner_config: { base_url: \"${NOT_SET_ANYWHERE_BASE:-https://api.example.com}\" }\n"},
	{CodeVariable, "${…} is malformed",
		"The forms are ${NAME}, ${NAME:-default}, ${file:/absolute/path} and ${cred:name}; $${ is a literal ${.",
		"runner_config: { base_url: \"https://${API-HOST}/v1\" }\n",
		"runner_config: { base_url: \"https://${API_HOST:-api.example.com}/v1\" }\n"},
	{CodeSchema, "an input_schema or output_schema does not work",
		"A schema maps fields to string, integer, number, boolean, object or array, or is a JSON Schema. Schemas\n" +
			"are compiled when the file is read, and nothing is fetched: a $ref to another document is refused.",
		"operations: [{ name: run, input_schema: { amount: int } }]\n",
		"operations: [{ name: run, input_schema: { amount: integer } }]\n"},
	{CodeUnknownEnv, "the chosen environment is not in the file",
		"--env and SPECQL_ENV choose one of the file's overlays. With a name that none has, nobody can tell which\n" +
			"limits were meant.",
		"", ""},
	{CodeNotRegistry, "this is no service registry, or it has no services",
		"A registry is a mapping with a services: list. A document with actions: is a workflow and goes to the\n" +
			"agent with --workflows.",
		"actions:\n- call_service: { service: example, operation: run }\n",
		"services:\n- name: example\n  type: api\n  category: demo\n  runner_config: { base_url: \"https://api.example.com\" }\n  operations: [{ name: run }]\n"},
	{CodeUnsupported, "known, but this version cannot run it",
		"Serverless services run on AWS Lambda. Functions of other providers can be called by their URL, as an\n" +
			"http service.",
		"execution_type: serverless\nrunner_config: { provider: azure, function_name: resize, region: us-east-1 }\n",
		"execution_type: serverless\nrunner_config: { provider: aws, function_name: resize, region: us-east-1 }\n"},
	{CodeUnreachable, "the service can run only some of its jobs",
		"A service of an HTTP-only application has neither execution_type nor base_url. It runs on, but only jobs\n" +
			"that bring their own endpoint, of a domain that the policy allows.",
		"runner_config: {}\n", "runner_config: { base_url: \"https://api.example.com\" }\n"},
	{CodeMissingProgram, "a program or directory is not there or cannot be used",
		"The path was looked for on the host where the check ran. It is a warning, since agents may run on others:\n" +
			"check it there.",
		"execution_type: shell\nrunner_config: { working_directory: / }\nsecurity_policy: { allowed_commands: [/no/such/program] }\n",
		"execution_type: shell\nrunner_config: { working_directory: / }\nsecurity_policy: { allowed_commands: [/bin/sh] }\n"},
	{CodeIgnored, "accepted, but it changes nothing",
		"Another value or rule wins, so what stands here has no effect. The message says which.",
		"runner_config: { base_url: \"https://api.example.com\", timeout: 60 }\nsecurity_policy: { resource_limits: { timeout_seconds: 30 } }\n",
		"runner_config: { base_url: \"https://api.example.com\", timeout: 30 }\nsecurity_policy: { resource_limits: { timeout_seconds: 30 } }\n"},
	{CodeUnpinned, "an image is not pinned",
		"A tag can point to another image tomorrow, and `latest` will. A digest cannot: name@sha256:…; a version's\n" +
			"own tag is the least.",
		"execution_type: docker\nrunner_config: { image: python }\n", "execution_type: docker\nrunner_config: { image: \"python:3.12\" }\n"},
	{CodeHostLimit, "a limit is more than this host has",
		"A job that asks for more processors or memory than the host has never gets them. It is a warning, since\n" +
			"agents may run on other hosts.",
		"execution_type: docker\nrunner_config: { image: \"python:3.12\" }\nsecurity_policy: { resource_limits: { cpu_cores: 4000 } }\n",
		"execution_type: docker\nrunner_config: { image: \"python:3.12\" }\nsecurity_policy: { resource_limits: { cpu_cores: 0.5 } }\n"},
}
