package program

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestOutputForms(t *testing.T) {
	for _, c := range []struct{ name, stdout, want string }{
		{"an object is the output", ` {"a": 1.50, "b": [true]} ` + "\n", `{"a": 1.50, "b": [true]}`},
		{"text is kept", "done\n", `{"exit_code":0,"stdout":"done\n"}`},
		{"nothing is kept as nothing", "", `{"exit_code":0,"stdout":""}`},
		{"a list is text", `[1]`, `{"exit_code":0,"stdout":"[1]"}`},
		{"two objects are text", `{} {}`, `{"exit_code":0,"stdout":"{} {}"}`},
		{"half an object is text", `{"a":`, `{"exit_code":0,"stdout":"{\"a\":"}`},
		{"bytes that are no UTF-8 are replaced", "a\xffb\x00c", `{"exit_code":0,"stdout":"a` + "\uFFFDb\uFFFD" + `c"}`},
		{"what jsonb refuses is replaced", `{"a\u0000": "\u0000\ud800x", "n": 12345678901234567890}`, `{"a` + "\uFFFD" + `":"` + "\uFFFD\uFFFD" + `x","n":12345678901234567890}`},
		{"an object with bytes that are no UTF-8 is mended", "{\"a\": \"\xff\"}", `{"a":"` + "\uFFFD" + `"}`},
	} {
		s := NewStreams(Usual, nil, nil)
		_, _ = s.Stdout().Write([]byte(c.stdout))
		if got := string(s.Success()); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAnyOutputBecomesABoundedObjectThatJSONBTakes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 64).Draw(rt, "limit")
		hidden := Secrets{"sesame"}
		s := NewStreams(Bounds{Stdout: limit, Stderr: limit}, hidden, nil)
		part := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Just([]byte("sesame")), rapid.Just([]byte(`{"a":"\u0000"}`)))
		for _, b := range rapid.SliceOf(part).Draw(rt, "writes") {
			_, _ = s.Stdout().Write(b)
			_, _ = s.Stderr().Write(b)
		}
		for _, out := range []json.RawMessage{s.Success(), s.Failure(1, "SIGKILL")} {
			var object map[string]any
			if err := json.Unmarshal(out, &object); err != nil || !utf8.Valid(out) || strings.ContainsRune(fmt.Sprint(object), 0) {
				rt.Fatalf("%v: %s", err, out)
			}
			if strings.Contains(string(out), "same") || strings.Contains(string(out), "sesa") {
				rt.Fatalf("the secret is shown: %s", out)
			}
			for _, name := range []string{"stdout", "stderr"} {
				if text, _ := object[name].(string); len(text) > 3*limit+3*len("sesame")+64 {
					rt.Fatalf("%s has %d bytes with a limit of %d", name, len(text), limit)
				}
			}
		}
		if reason := s.Reason(); len(reason) > reasonBytes || strings.ContainsAny(reason, "\n\r\x1b\x00") || strings.Contains(reason, "sesame") {
			rt.Fatalf("reason %q", reason)
		}
	})
}

func TestSecretsOfTheRegistryAreMasked(t *testing.T) {
	hidden := SecretsOf(map[string]string{"DB_PASSWORD": `p"w<\1`, "AWS_SECRET_ACCESS_KEY": "abc123xyz", "LOG_LEVEL": "INFO", "PIN_TOKEN": "1234567",
		"PRIVATE_KEY": "-----BEGIN-----\nMIIEpAIBAAKCAQEA\n-----END-----\n"})
	for _, shown := range []string{"abc123xyz", `p"w<\1`, `p\"w`, base64.StdEncoding.EncodeToString([]byte("abc123xyz")), "1234567", "MIIEpAIBAAKCAQEA"} {
		s := NewStreams(Usual, hidden, nil)
		b, _ := json.Marshal(map[string]any{"x": shown, shown: 1, "n": json.Number("1234567"), "l": []any{shown}})
		_, _ = s.Stdout().Write(b)
		_, _ = s.Stderr().Write([]byte(shown))
		out := string(s.Success())
		if shown != `p\"w` && (strings.Contains(out, shown) || strings.Contains(s.Reason(), shown)) || strings.Contains(out, "1234567") {
			t.Errorf("%q is shown: %s, %s", shown, out, s.Reason())
		}
		if !json.Valid([]byte(out)) {
			t.Errorf("masking broke the JSON: %s", out)
		}
	}
	if slices.Contains(hidden, "INFO") {
		t.Error("a value that is no secret is masked")
	}
}

func TestTooMuchOfBothStreamsIsTold(t *testing.T) {
	s := NewStreams(Bounds{Stdout: 2, Stderr: 2, Both: 6}, nil, nil)
	out, diagnostics := s.Stdout(), s.Stderr()
	for i, w := range []interface{ Write([]byte) (int, error) }{out, diagnostics} {
		_, _ = w.Write([]byte("abc"))
		select {
		case <-s.TooMuch():
			t.Fatalf("%d bytes of 6 are too much", 3*(i+1))
		default:
		}
	}
	_, _ = out.Write([]byte("d"))
	select {
	case <-s.TooMuch():
	default:
		t.Error("7 bytes of 6 are not too much")
	}
	if got := string(s.Success()); got != `{"exit_code":0,"stdout":"ab\n[2 more bytes were cut off]","stdout_truncated_bytes":2}` {
		t.Error(got)
	}
}
