package lambdadev

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// runtimeAPI is the Lambda Runtime API, version 2018-06-01, of one environment
// (docs.aws.amazon.com, "Using the Lambda runtime API").
func (e *environment) runtimeAPI() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", e.askNext)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", e.takeResponse)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", e.takeError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", e.takeInitError)
	return mux
}

// askNext ends the invocation before and waits for the next one.
func (e *environment) askNext(w http.ResponseWriter, r *http.Request) {
	e.settled()
	var in *invocation
	select {
	case in = <-e.next:
	case <-r.Context().Done():
		return
	}
	e.mu.Lock()
	e.current = in
	e.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Lambda-Runtime-Aws-Request-Id", in.id)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(in.deadline.UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", in.arn)
	if in.traceID != "" {
		h.Set("Lambda-Runtime-Trace-Id", in.traceID)
	}
	if in.clientContext != "" {
		h.Set("Lambda-Runtime-Client-Context", in.clientContext)
	}
	w.Write(in.payload)
}

// settled notes that the runtime is through with its invocation, or with its
// init.
func (e *environment) settled() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current != nil {
		close(e.current.finished)
		e.current = nil
		return
	}
	if !e.first {
		e.first = true
		e.initTook = time.Since(e.begun)
		close(e.ready)
	}
}

// answering finds the invocation that an answer is for.
func (e *environment) answering(w http.ResponseWriter, r *http.Request) *invocation {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := e.current
	if in == nil || in.id != r.PathValue("id") || isAnswered(in) {
		runtimeError(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return nil
	}
	return in
}

func runtimeError(w http.ResponseWriter, status int, kind, message string) {
	writeJSON(w, status, map[string]string{"errorType": kind, "errorMessage": message})
}

func accepted(w http.ResponseWriter) {
	writeJSON(w, http.StatusAccepted, map[string]string{"status": "OK"})
}

// takeResponse takes an answer, whole or as a stream.
func (e *environment) takeResponse(w http.ResponseWriter, r *http.Request) {
	in := e.answering(w, r)
	if in == nil {
		return
	}
	if in.emit != nil {
		e.stream(w, r, in)
		return
	}
	payload, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	if err != nil {
		return
	}
	if len(payload) > maxAnswer {
		in.answer = answer{tooLarge: true}
		close(in.answered)
		runtimeError(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge",
			"Exceeded maximum allowed payload size (6291556 bytes).")
		return
	}
	in.answer = answer{payload: payload}
	if fault := trailer(r); fault != nil {
		in.answer = answer{payload: fault, failed: true}
	}
	close(in.answered)
	accepted(w)
}

// stream passes an answer on as it is written. A function that fails in the
// middle says so in a trailer.
func (e *environment) stream(w http.ResponseWriter, r *http.Request, in *invocation) {
	buf := make([]byte, 64<<10)
	total := 0
	for {
		n, err := r.Body.Read(buf)
		if total += n; total > maxStreamed {
			in.answer = answer{tooLarge: true}
			break
		}
		if n > 0 && in.emit(buf[:n]) != nil {
			io.Copy(io.Discard, r.Body) // the caller has gone; the function goes on
			break
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return // the function has gone
			}
			break
		}
	}
	if fault := trailer(r); fault != nil {
		in.answer = answer{payload: fault, failed: true}
	}
	close(in.answered)
	accepted(w)
}

func trailer(r *http.Request) []byte {
	body := r.Trailer.Get("Lambda-Runtime-Function-Error-Body")
	if body == "" {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		return failure(r.Trailer.Get("Lambda-Runtime-Function-Error-Type"), body)
	}
	return raw
}

// takeError takes a function's error.
func (e *environment) takeError(w http.ResponseWriter, r *http.Request) {
	in := e.answering(w, r)
	if in == nil {
		return
	}
	payload, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return
	}
	in.answer = answer{payload: payload, failed: true}
	close(in.answered)
	accepted(w)
}

// takeInitError takes the reason why a function cannot begin.
func (e *environment) takeInitError(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return
	}
	e.mu.Lock()
	e.initFault = payload
	e.mu.Unlock()
	accepted(w)
}
