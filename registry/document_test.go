package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// planted is a registry with a secret in every place where one may stand. All
// of them begin with hunter.
const planted = `# Rotated in May; the old one: password: hunter0
# api_token: "hunter1"
# client_secret: |
#   hunter2 first line
#
#   hunter2 second line
# timeout: 5
# curl -H "Authorization: Bearer hunter3abcdef"
# -----BEGIN RSA PRIVATE KEY-----
# hunter4
# -----END RSA PRIVATE KEY-----
x-shared: &shared hunter5 # used as a password below
x-plain: &plain { region: eu }
services:
- name: stripe_api # secret=hunter6
  type: payment
  category: finance
  runner_config:
    base_url: "https://api.stripe.com"
    headers:
      Authorization: "Bearer ${STRIPE_TOKEN}"
      X-Api-Key: hunter7
      Cookie: 'it''s hunter8
        over two lines'
      X-Auth-Token: >-
        hunter11
        folded
      X-Trace: plain text that stays
      X-Url: http://user:hunter12@internal/
      X-Login: http://${USER}:${PW}@internal/
      X-Query: https://h/?page=2&api_key=hunter13&x=1
      X-Json: '{"password": "hunter14", "page": 2}'
  operations:
  - name: charge
    input_schema: { amount: integer, card_token: string, password: { type: string, minLength: 8, default: hunter16 } }
    output_schema: { type: object, properties: { secret: { enum: [hunter17, hunter18] } } }
    path: /v1/tokens/{card_token}
- name: cleaner
  type: job
  category: ops
  execution_type: shell
  runner_config:
    working_directory: /tmp
    environment: { DB_PASSWORD: "hunter19", "PGPASSWORD": hunter20, REGION: eu, DATABASE_URL: "postgres://a:hunter21@db/x",
      AMQP: "amqp://u:hunter22@q", GREETING: "${GREETING:-hello}", FALLBACK: "${DB_PASSWORD:-hunter23}",
      MAX: 5, STRIPE: sk_live_hunter24abc, JWT: eyJhunter25aaaaa.eyJhunter26aaaa.x }
    # environment_of_old:
    #   TOKEN: hunter27
  security_policy: { allowed_commands: [/usr/bin/psql] }
  operations:
  - name: run
    command: [/usr/bin/psql, --password, hunter28, --token=hunter29, --verbose, yes, $input.file]
- name: aliased
  type: job
  category: ops
  execution_type: shell
  runner_config:
    working_directory: /tmp
    environment:
      API_SECRET: *shared
      TOKENS_LITERAL: plain hunter30
        goes on hunter31
      MY_SIGNATURE: |
        hunter9
          hunter10

      NOTE: |  # token: hunter37
        first line
        password: hunter15
        last line
      WRITTEN_OUT: it is sesame-open-hunter32 in here
      <<: *plain
  security_policy: { allowed_commands: [/bin/true] }
  operations:
  - { name: run, command: [/bin/true] }
alerts:
- name: failures
  condition: error_rate > 0.05
  notify: [https://hooks.slack.com/services/T0/B0/hunter33]
production:
  services:
  - name: stripe_api
    runner_config:
      headers: { X-Api-Key: hunter34 }
  - name: cleaner
    runner_config:
      environment: { DB_PASSWORD: hunter35 } # password: hunter36
`

func TestAVersionsTextHoldsNoSecretAndAllTheRest(t *testing.T) {
	env := envOf("STRIPE_TOKEN", "tok", "USER", "u", "PW", "p", "OTHER_SECRET", "sesame-open-hunter32", "DB_PASSWORD", "")
	for _, end := range []string{"\n", "\r\n"} {
		text := strings.ReplaceAll(planted, "\n", end)
		text = strings.Replace(text, "X-Trace: plain", "X-Other: \"${OTHER_SECRET}\""+end+"      X-Trace: plain", 1)
		c, _ := mustParse(t, text, Options{Env: "production", LookupEnv: env})
		out := c.Redacted()
		if out == Withheld {
			t.Fatal("the text is withheld")
		}
		if i := strings.Index(out, "hunter"); i >= 0 {
			t.Errorf("a secret is left: …%s…", out[max(0, i-60):min(len(out), i+40)])
		}
		for _, kept := range []string{
			`Authorization: "Bearer ${STRIPE_TOKEN}"`, "X-Trace: plain text that stays", "X-Login: http://${USER}:${PW}@internal/",
			"page=2&api_key=••••&x=1", "GREETING: \"${GREETING:-hello}\"", "${DB_PASSWORD:-••••}", "REGION: eu", "MAX: 5",
			"amount: integer, card_token: string", "minLength: 8, default: ••••", "path: /v1/tokens/{card_token}",
			"--token=••••, --verbose, yes, $input.file", "# timeout: 5", "first line", "last line", "# used as a password below",
			"condition: error_rate > 0.05", `"page": 2`, "X-Json: '{\"password\": \"••••\"", "API_SECRET: *shared", "amqp://••••@q",
			"#   TOKEN: ••••", "https://hooks.slack.com/services/••••",
		} {
			if !strings.Contains(out, kept) {
				t.Errorf("%s is lost in:\n%s", kept, out)
			}
		}
		if a, b := strings.Count(text, end+"- name:"), strings.Count(out, "\n- name:"); a != b {
			t.Errorf("%d of %d services are left", b, a)
		}
	}
}

func TestAVersionsTextIsTheFilesOwnWhereItHoldsNoSecret(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	more, _ := filepath.Glob("../examples/registry/*.yaml")
	if files = append(files, more...); err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	read := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		c := &Config{source: data}
		out := c.Redacted()
		if root, fault := parseTree(data, &report{}); fault != nil || root == nil {
			continue
		}
		read++
		if out == Withheld {
			t.Errorf("%s is withheld", file)
		}
		if strings.ReplaceAll(out, masked, "") == out && out != string(data) {
			t.Errorf("%s has no secret and yet another text", file)
		}
	}
	if read < 10 {
		t.Errorf("only %d files were read", read)
	}
	big := bigRegistry(700) // one that is parsed in parts
	if c, _ := mustParse(t, big, Options{LookupEnv: noEnv}); c.Redacted() != big {
		t.Error("a big file without secrets has another text")
	}
}

// Whatever style a value has, what stands beside a secret-looking key goes and
// all the rest stays.
func TestMaskingFollowsEveryStyleOfYAML(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		text.WriteString("services:\n- name: s\n  type: t\n  category: c\n  operations: [{name: o}]\n  runner_config:\n    base_url: https://h\n    headers:\n")
		var secrets, kept []string
		n := rapid.IntRange(1, 6).Draw(t, "headers")
		for i := range n {
			key, list := fmt.Sprintf("X-Plain-%d", i), &kept
			if rapid.Bool().Draw(t, "secret") {
				key, list = fmt.Sprintf("X-Token-%d", i), &secrets
			}
			word := func(k int) string {
				w := fmt.Sprintf("w%dé%dx", i, k)
				*list = append(*list, w)
				return w
			}
			gap := rapid.SampledFrom([]string{"", "\n", "      # a comment\n", "# at the edge\n"}).Draw(t, "gap")
			style := rapid.SampledFrom([]string{
				"%s: %s %s # why\n", "%s: \"%s %s\"\n", "%s:   '%s''%s'\n", "%s: \"%s\\\"\n\n        %s\"  # why\n", "%s: %s\n        %s\n",
				"%s: |\n        %s\n        %s\n", "%s: >-  # why\n        %s\n\n          %s\n", "%s: |2\n          %s\n        # %s\n",
				"%s: |+\n       %s\n       %s\n\n\n", "\"%s\": !!str %s %s\n", "%s: &anchor" + fmt.Sprint(i) + " %s %s\n", "%s:\n        %s\n        %s\n",
			}).Draw(t, "style")
			fmt.Fprintf(&text, "%s      "+style, gap, key, word(1), word(2))
		}
		config, diags := Parse("f", []byte(text.String()), Options{LookupEnv: noEnv})
		if config == nil {
			if len(diags) > 0 && strings.Contains(diags[0].Message, "line break") {
				t.Skip("a header on several lines")
			}
			config = &Config{source: []byte(text.String())}
		}
		out := config.Redacted()
		if out == Withheld {
			t.Fatalf("withheld:\n%s", text.String())
		}
		for _, w := range secrets {
			if strings.Contains(out, w) {
				t.Fatalf("%s is left:\n%s\nof\n%s", w, out, text.String())
			}
		}
		for _, w := range kept {
			if !strings.Contains(out, w) {
				t.Fatalf("%s is lost:\n%s\nof\n%s", w, out, text.String())
			}
		}
	})
}

func TestATextWhoseSecretsAreUncertainIsWithheld(t *testing.T) {
	for name, text := range map[string]string{
		"not YAML":  "services: {",
		"empty":     "# nothing\n",
		"one value": "x-a: 1\n...\nb",
	} {
		if out := (&Config{source: []byte(text)}).Redacted(); out != Withheld {
			t.Errorf("%s: %q", name, out)
		}
	}
	// A wrong idea of where a value ends must be noticed.
	text := "services:\n- name: s\n  password: \"a\n  b\"\n  c: d\n"
	root, _ := parseTree([]byte(text), &report{})
	h := hider{config: &Config{}, hidden: map[*node]string{}}
	h.visit(root, "", place{})
	again, _ := parseTree([]byte("services:\n- name: s\n  password: ••••\n  b\n  c: d\n"), &report{})
	if again != nil && h.same(root, again) {
		t.Error("what is left of a secret is not noticed")
	}
}

func TestDiffMasksWhatStandsDeepInsideOfAValue(t *testing.T) {
	version := func(secret string) *Config {
		c, _ := mustParse(t, "services:\n- name: s\n  type: t\n  category: c\n  execution_type: shell\n  runner_config: {working_directory: /tmp}\n"+
			"  security_policy: {allowed_commands: [/bin/x]}\n  operations: [{name: o, input_schema: {card: {type: object, "+
			"properties: {password: {type: string, default: "+secret+"}}}}, command: [/bin/x, --token, "+secret+"]}]\n", Options{LookupEnv: noEnv})
		return c
	}
	text := Diff(version("hunter1"), version("hunter2")).String()
	if strings.Contains(text, "hunter") || !strings.Contains(text, "operations.") {
		t.Error(text)
	}
}

func TestASketchShowsWhatVersionsDifferIn(t *testing.T) {
	version := func(url, token, limit string) *Config {
		c, _ := mustParse(t, service("  runner_config: { base_url: '"+url+"', headers: { X-Token: "+token+" } }\n  security_policy: { rate_limit_per_minute: "+limit+" }\n"),
			Options{LookupEnv: envOf("URL", "https://resolved")})
		return Sketch("kept", []byte(c.Redacted()), "")
	}
	changes := Diff(version("${URL}", "hunter1", "5"), version("https://b", "hunter2", "7")).String()
	want := "changed a (runner_config.base_url ${URL} → https://b, security_policy.rate_limit_per_minute 5 → 7)"
	if changes != want {
		t.Errorf("got  %s\nwant %s", changes, want)
	}
	for _, bad := range []string{"", "services: {", "actions: []", Withheld} {
		if Sketch("f", []byte(bad), "") != nil {
			t.Errorf("%q was taken for a registry", bad)
		}
	}
}

func BenchmarkRedactTenThousandServices(b *testing.B) {
	c := &Config{source: []byte(bigRegistry(10_000))}
	b.ReportAllocs()
	for b.Loop() {
		if c.Redacted() == Withheld {
			b.Fatal("withheld")
		}
	}
}
