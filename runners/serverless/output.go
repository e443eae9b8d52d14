package serverless

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// output gives an answer the form of output_data: a JSON object as it is,
// anything else as {"body": …, "status_code": N}.
func output(payload []byte, status int) json.RawMessage {
	body := bytes.TrimSpace(payload)
	if !json.Valid(body) {
		if utf8.Valid(payload) {
			return encode(map[string]any{"body": string(payload), "status_code": status})
		}
		return encode(map[string]any{"body_base64": payload, "status_code": status})
	}
	if body[0] == '{' {
		return body
	}
	return encode(map[string]any{"body": json.RawMessage(body), "status_code": status})
}

// encode writes JSON without HTML's escapes. What it is given always encodes.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic("serverless: a value made of JSON's own types does not encode: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func decodeLog(encoded *string) string {
	raw, err := base64.StdEncoding.DecodeString(aws.ToString(encoded))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(raw), "\ufffd")
}

// report is what AWS says of an invocation at the end of its log.
type report struct {
	billedMS, memoryMB, usedMB int64
	initMS                     float64 // 0: the environment was warm
	status                     string  // "", "error", "timeout"
}

var (
	reportLine = regexp.MustCompile(`(?m)^REPORT RequestId: \S+\s.*$`)
	billedPart = regexp.MustCompile(`Billed Duration: ([0-9]+) ms`)
	memoryPart = regexp.MustCompile(`Memory Size: ([0-9]+) MB`)
	usedPart   = regexp.MustCompile(`Max Memory Used: ([0-9]+) MB`)
	initPart   = regexp.MustCompile(`Init Duration: ([0-9.]+) ms`)
	statusPart = regexp.MustCompile(`Status: (\w+)`)
)

// parseReport finds the last report in the end of a log: the REPORT line, or the
// record platform.report where the function's log format is JSON
// (docs.aws.amazon.com, "Lambda Telemetry API Event schema reference").
func parseReport(log string) (r report, ok bool) {
	if lines := reportLine.FindAllString(log, -1); len(lines) > 0 {
		line := lines[len(lines)-1]
		number := func(re *regexp.Regexp) (n int64) {
			if part := re.FindStringSubmatch(line); part != nil {
				n, _ = strconv.ParseInt(part[1], 10, 64)
			}
			return n
		}
		r = report{billedMS: number(billedPart), memoryMB: number(memoryPart), usedMB: number(usedPart)}
		if part := initPart.FindStringSubmatch(line); part != nil {
			r.initMS, _ = strconv.ParseFloat(part[1], 64)
		}
		if part := statusPart.FindStringSubmatch(line); part != nil {
			r.status = part[1]
		}
		return r, r.billedMS > 0 && r.memoryMB > 0
	}
	for line := range strings.SplitSeq(log, "\n") {
		var record struct {
			Type   string
			Record struct {
				Status  string
				Metrics struct {
					BilledDurationMs, MemorySizeMB, MaxMemoryUsedMB int64
					InitDurationMs                                  float64
				}
			}
		}
		if json.Unmarshal([]byte(line), &record) == nil && record.Type == "platform.report" {
			m := record.Record.Metrics
			r = report{billedMS: m.BilledDurationMs, memoryMB: m.MemorySizeMB, usedMB: m.MaxMemoryUsedMB, initMS: m.InitDurationMs, status: record.Record.Status}
			ok = r.billedMS > 0 && r.memoryMB > 0
		}
	}
	return r, ok
}
