package httpapi_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners/httpapi"
)

func TestAnAPIKeyInTheQueryIsTheRegistrys(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{LookupEnv: env(map[string]string{"KEY": "k&1 secret"})})
	call := newCall(server.URL, `{"key": "the row's", "n": 1}`)
	call.Operation.Method, call.Operation.Path = "GET", "/c?v=2"
	call.Service.RunnerConfig.AuthType = "api_key"
	call.Service.RunnerConfig.AuthConfig = registry.AuthConfig{APIKeyEnvVar: "KEY", QueryName: "key"}
	mustRun(t, r, call)
	if got := (<-requests).RequestURI; got != "/c?v=2&n=1&key=k%261+secret" {
		t.Errorf("request = %s", got)
	}
	call.Service.RunnerConfig.BaseURL = "http://127.0.0.1:1"
	if _, err := r.Run(t.Context(), call); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error = %v", err)
	}
}

func TestAFormHoldsTheInputsFields(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{})
	call := newCall(server.URL, `{"amount": 12345678901234567890, "paid": true, "note": "a&b ü", "none": null, "list": [1, {"k": "v"}], "card": {"exp": {"year": 2030}}}`)
	call.Operation.Body = "form"
	mustRun(t, r, call)
	got := <-requests
	want := url.Values{"amount": {"12345678901234567890"}, "paid": {"true"}, "note": {"a&b ü"}, "list[0]": {"1"}, "list[1][k]": {"v"}, "card[exp][year]": {"2030"}}
	if got.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || got.body != want.Encode() {
		t.Errorf("%s %s, want %s", got.Header.Get("Content-Type"), got.body, want.Encode())
	}
	call.Job.Input = nil
	mustRun(t, r, call)
	if got := <-requests; got.body != "" {
		t.Errorf("without input: %q", got.body)
	}
	call.Job.Input = []byte(`[1]`)
	configFault(t, r, call, "body: form")
}

// TestARequestIsSignedAsAWSReadsIt checks signatures by the steps of AWS's own
// description, written anew here ("Create a signed AWS API request").
func TestARequestIsSignedAsAWSReadsIt(t *testing.T) {
	const key, region = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-central-1"
	now := time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)
	values := map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": key, "AWS_SESSION_TOKEN": "the-session", "OTHER_ID": "AKIDOTHER", "OTHER_KEY": key}
	for _, c := range []struct {
		name, service, method, path, input string
		config                             registry.AuthConfig
		token                              string
	}{
		{"post", "execute-api", "POST", "/charges", `{"amount": 5}`, registry.AuthConfig{}, "the-session"},
		{"query and path", "execute-api", "GET", "/c/{id}?b=2", `{"id": "ü x", "a": "1 2"}`, registry.AuthConfig{}, "the-session"},
		{"s3", "s3", "PUT", "/o/{id}", `{"id": "a b"}`, registry.AuthConfig{}, "the-session"},
		{"named variables", "es", "POST", "/q", `{}`, registry.AuthConfig{AccessKeyIDEnvVar: "OTHER_ID", SecretAccessKeyEnvVar: "OTHER_KEY"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, requests := record(t)
			r := newRunner(t, httpapi.Options{LookupEnv: env(values), Now: func() time.Time { return now }})
			call := newCall(server.URL, c.input)
			call.Operation.Method, call.Operation.Path = c.method, c.path
			c.config.AWSRegion, c.config.AWSService = region, c.service
			call.Service.RunnerConfig.AuthType, call.Service.RunnerConfig.AuthConfig = "aws_sigv4", c.config
			result := mustRun(t, r, call)
			got := <-requests
			if want := sigV4(got, key, c.service, region); got.Header.Get("Authorization") != want {
				t.Errorf("Authorization = %s\nwant            %s", got.Header.Get("Authorization"), want)
			}
			if got.Header.Get("X-Amz-Security-Token") != c.token || got.Header.Get("X-Amz-Date") != "20261124T093000Z" {
				t.Errorf("headers = %v", got.Header)
			}
			if strings.Contains(string(result.Output), key) {
				t.Error("the key is in the output")
			}
		})
	}
	call := newCall("http://127.0.0.1:1", `{}`)
	call.Service.RunnerConfig.AuthType = "aws_sigv4"
	call.Service.RunnerConfig.AuthConfig = registry.AuthConfig{AWSRegion: region, AWSService: "s3"}
	configFault(t, newRunner(t, httpapi.Options{LookupEnv: env(nil)}), call, "AWS_ACCESS_KEY_ID")
	call.Service.RunnerConfig.AuthConfig.AWSRegion = ""
	configFault(t, newRunner(t, httpapi.Options{LookupEnv: env(values)}), call, "aws_region")
}

// sigV4 is the Authorization that a request should have come with.
func sigV4(r seen, key, service, region string) string {
	authorization := r.Header.Get("Authorization")
	_, rest, _ := strings.Cut(authorization, "SignedHeaders=")
	signed, _, _ := strings.Cut(rest, ",")
	var headers strings.Builder
	for _, name := range strings.Split(signed, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if service != "s3" { // each segment escaped once more
		path = strings.ReplaceAll(path, "%", "%25")
	}
	query := r.URL.Query()
	var pairs []string
	for name := range query {
		for _, value := range query[name] {
			pairs = append(pairs, awsEscape(name)+"="+awsEscape(value))
		}
	}
	slices.Sort(pairs)
	sum := func(text string) string { h := sha256.Sum256([]byte(text)); return hex.EncodeToString(h[:]) }
	canonical := strings.Join([]string{r.Method, path, strings.Join(pairs, "&"), headers.String(), signed, sum(r.body)}, "\n")
	date := r.Header.Get("X-Amz-Date")
	scope := strings.Join([]string{date[:8], region, service, "aws4_request"}, "/")
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		io.WriteString(h, text)
		return h.Sum(nil)
	}
	k := mac(mac(mac(mac([]byte("AWS4"+key), date[:8]), region), service), "aws4_request")
	id, _, _ := strings.Cut(strings.TrimPrefix(authorization, "AWS4-HMAC-SHA256 Credential="), "/")
	return fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", id, scope, signed,
		hex.EncodeToString(mac(k, strings.Join([]string{"AWS4-HMAC-SHA256", date, scope, sum(canonical)}, "\n"))))
}

func awsEscape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func TestASignatureIsMadeForEachTry(t *testing.T) {
	now := time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)
	var dates []string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		dates = append(dates, r.Header.Get("X-Amz-Date"))
		now = now.Add(time.Minute)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	r := newRunner(t, httpapi.Options{Now: func() time.Time { return now },
		LookupEnv: env(map[string]string{"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"})})
	call := newCall(server.URL, `{}`)
	call.Operation.Method = "PUT"
	call.Service.RunnerConfig.AuthType = "aws_sigv4"
	call.Service.RunnerConfig.AuthConfig = registry.AuthConfig{AWSRegion: "us-east-1", AWSService: "s3"}
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 1
	if _, err := r.Run(t.Context(), call); err == nil {
		t.Fatal("no error")
	}
	if len(dates) != 2 || dates[0] == dates[1] {
		t.Errorf("dates of the signatures: %v", dates)
	}
}
