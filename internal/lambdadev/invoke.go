package lambdadev

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
)

// Quotas of payloads, in bytes (docs.aws.amazon.com, "Lambda quotas").
const (
	maxPayload   = 6291456
	maxEvent     = 1048576
	maxAnswer    = 6291556
	maxStreamed  = 200 << 20
	maxContext   = 3583
	maxLogResult = 4096 // bytes of the log's end that a caller can have
)

// invoke is the operation Invoke.
func (s *Server) invoke(w http.ResponseWriter, r *http.Request) {
	kind := r.Header.Get("X-Amz-Invocation-Type")
	limit := maxPayload
	if kind == "Event" {
		limit = maxEvent
	}
	v, in, err := s.prepare(r, limit, "InvokeFunction")
	if err != nil {
		writeError(w, err)
		return
	}
	switch kind {
	case "DryRun":
		w.WriteHeader(http.StatusNoContent)
	case "Event":
		in.clientContext = "" // it is passed to synchronous invocations only
		release, err := s.acquire(v.function)
		if err != nil {
			writeError(w, err)
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			release()
			return
		}
		s.events.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.events.Done()
			defer release()
			s.run(v, in)
		}()
		w.WriteHeader(http.StatusAccepted)
	case "", "RequestResponse":
		release, err := s.acquire(v.function)
		if err != nil {
			writeError(w, err)
			return
		}
		out := s.run(v, in)
		release()
		s.answer(w, r, v, out)
	default:
		writeError(w, invalid("Value '%s' at 'invocationType' failed to satisfy constraint: Event, RequestResponse or DryRun", kind))
	}
}

// answer writes the result of a synchronous invocation.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, v *version, out outcome) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-Requestid", out.id)
	h.Set("X-Amz-Executed-Version", v.conf.Version)
	if out.functionError != "" {
		h.Set("X-Amz-Function-Error", out.functionError)
	}
	if r.Header.Get("X-Amz-Log-Type") == "Tail" {
		h.Set("X-Amz-Log-Result", base64.StdEncoding.EncodeToString(out.tail()))
	}
	w.WriteHeader(http.StatusOK)
	w.Write(out.payload)
}

// invokeStreaming is the operation InvokeWithResponseStream: the answer comes as
// it is written, then one event that says how it ended.
func (s *Server) invokeStreaming(w http.ResponseWriter, r *http.Request) {
	v, in, err := s.prepare(r, maxPayload, "InvokeWithResponseStream")
	if err != nil {
		writeError(w, err)
		return
	}
	release, err := s.acquire(v.function)
	if err != nil {
		writeError(w, err)
		return
	}
	defer release()
	h := w.Header()
	h.Set("Content-Type", "application/vnd.amazon.eventstream")
	h.Set("X-Amz-Executed-Version", v.conf.Version)
	h.Set("X-Amzn-Requestid", in.id)
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	encoder := eventstream.NewEncoder()
	send := func(kind, contentType string, payload []byte) error {
		m := eventstream.Message{Payload: payload}
		m.Headers.Set(":message-type", eventstream.StringValue("event"))
		m.Headers.Set(":event-type", eventstream.StringValue(kind))
		m.Headers.Set(":content-type", eventstream.StringValue(contentType))
		if err := encoder.Encode(w, m); err != nil {
			return err
		}
		return flush.Flush()
	}
	flush.Flush()
	var mu sync.Mutex
	over := false // a function that was killed may have a chunk under way yet
	in.emit = func(chunk []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return http.ErrHandlerTimeout
		}
		return send("PayloadChunk", "application/octet-stream", chunk)
	}
	out := s.run(v, in)
	mu.Lock()
	over = true
	mu.Unlock()
	end := map[string]string{}
	if out.functionError != "" {
		end["ErrorCode"], end["ErrorDetails"] = out.errorType(), string(out.payload)
	} else if len(out.payload) > 0 {
		send("PayloadChunk", "application/octet-stream", out.payload)
	}
	if r.Header.Get("X-Amz-Log-Type") == "Tail" {
		end["LogResult"] = base64.StdEncoding.EncodeToString(out.tail())
	}
	raw, _ := json.Marshal(end) // strings: it cannot fail
	send("InvokeComplete", "application/json", raw)
}

// prepare reads and checks what a request wants invoked.
func (s *Server) prepare(r *http.Request, limit int, operation string) (*version, *invocation, error) {
	v, arn, err := s.resolve(r.PathValue("name"), r.URL.Query().Get("Qualifier"))
	if err != nil {
		return nil, nil, err
	}
	payload, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err != nil {
		return nil, nil, &apiError{status: http.StatusBadRequest, code: "InvalidRequestContentException", message: "the payload broke off"}
	}
	if len(payload) > limit {
		return nil, nil, &apiError{status: http.StatusRequestEntityTooLarge, code: "RequestTooLargeException",
			message: fmt.Sprintf("Request must be smaller than %d bytes for the %s operation", limit, operation)}
	}
	if len(payload) == 0 {
		payload = []byte("{}")
	}
	if !json.Valid(payload) {
		return nil, nil, &apiError{status: http.StatusBadRequest, code: "InvalidRequestContentException",
			message: "Could not parse request body into json: Unexpected character in the payload"}
	}
	in := newInvocation(payload)
	in.arn = arn
	in.traceID = r.Header.Get("X-Amzn-Trace-Id")
	if encoded := r.Header.Get("X-Amz-Client-Context"); encoded != "" {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(encoded) > maxContext || !json.Valid(raw) {
			return nil, nil, &apiError{status: http.StatusBadRequest, code: "InvalidRequestContentException",
				message: "Client context must be a valid Base64-encoded JSON object of at most 3583 bytes."}
		}
		in.clientContext = string(raw)
	}
	return v, in, nil
}

// acquire takes one of the function's concurrent executions.
func (s *Server) acquire(f *function) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	throttled := func(reason string) error {
		return &apiError{status: http.StatusTooManyRequests, code: "TooManyRequestsException", message: "Rate Exceeded.", reason: reason, retryAfter: "1"}
	}
	switch {
	case s.closed:
		return nil, &apiError{status: http.StatusServiceUnavailable, code: "ServiceException", kind: "Service", message: "the endpoint is closing"}
	case f.reserved != nil && f.inFlight >= *f.reserved:
		return nil, throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
	case s.inFlight >= s.opt.Concurrency:
		return nil, throttled("ConcurrentInvocationLimitExceeded")
	}
	f.inFlight++
	s.inFlight++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f.inFlight--
		s.inFlight--
	}, nil
}

// outcome is how an invocation ended.
type outcome struct {
	id            string
	payload       []byte
	functionError string // Unhandled, or empty
	log           []byte
}

func (o outcome) tail() []byte {
	if cut := len(o.log) - maxLogResult; cut > 0 {
		return o.log[cut:]
	}
	return o.log
}

func (o outcome) errorType() string {
	var e struct{ ErrorType string }
	if json.Unmarshal(o.payload, &e) != nil || e.ErrorType == "" {
		return o.functionError
	}
	return e.ErrorType
}

// failure is the payload of an error that the service itself words.
func failure(kind, message string) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.Encode(struct {
		ErrorType    string `json:"errorType"`
		ErrorMessage string `json:"errorMessage"`
	}{kind, message})
	return bytes.TrimSpace(b.Bytes())
}
