package lambdadev

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Options says where and as whom the endpoint stands.
type Options struct {
	Dir         string        // functions are unpacked below it; a temporary one, removed by Close, when empty
	Region      string        // requests signed for another one are refused; us-east-1 when empty
	Account     string        // twelve digits; 123456789012 when empty
	Concurrency int           // of all functions together; 1000 when 0
	KeepWarm    time.Duration // an idle environment ends after it; five minutes when 0
	Log         io.Writer     // what functions write and what is reported of them; nil: nobody reads
}

// Server is one region's endpoint. Its methods may be called by any goroutine.
type Server struct {
	opt     Options
	mux     *http.ServeMux
	server  *http.Server
	url     string
	tempDir string

	mu        sync.Mutex
	functions map[string]*function
	inFlight  int
	events    sync.WaitGroup // Event invocations under way
	closed    bool
	logMu     sync.Mutex
}

// New makes an endpoint without an address, to be served by the caller's own
// HTTP server. Close it.
func New(opt Options) (*Server, error) {
	opt.Region = cmp.Or(opt.Region, "us-east-1")
	opt.Account = cmp.Or(opt.Account, "123456789012")
	opt.Concurrency = cmp.Or(opt.Concurrency, 1000)
	opt.KeepWarm = cmp.Or(opt.KeepWarm, 5*time.Minute)
	s := &Server{opt: opt, functions: map[string]*function{}}
	if opt.Dir == "" {
		dir, err := os.MkdirTemp("", "specql-lambda-")
		if err != nil {
			return nil, fmt.Errorf("local Lambda: %w", err)
		}
		s.opt.Dir, s.tempDir = dir, dir
	}
	s.mux = s.routes()
	return s, nil
}

// Start makes an endpoint on a free port of loopback. Close it.
func Start(opt Options) (*Server, error) {
	s, err := New(opt)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("local Lambda: %w", err)
	}
	s.url = "http://" + listener.Addr().String()
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(listener)
	return s, nil
}

// URL is what AWS_ENDPOINT_URL_LAMBDA or endpoint_url has to say; empty unless
// Start made the endpoint.
func (s *Server) URL() string { return s.url }

// Close ends every environment and removes what was unpacked into a temporary
// directory.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	var all []*environment
	for _, f := range s.functions {
		for _, v := range f.versions {
			all = append(all, v.all()...)
		}
	}
	s.mu.Unlock()
	for _, e := range all {
		e.kill()
	}
	if s.server != nil {
		s.server.Close()
	}
	s.events.Wait()
	for _, e := range all {
		<-e.gone
	}
	if s.tempDir != "" {
		os.RemoveAll(s.tempDir)
	}
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2015-03-31/functions", s.createFunction)
	mux.HandleFunc("GET /2015-03-31/functions", s.listFunctions)
	mux.HandleFunc("GET /2015-03-31/functions/{$}", s.listFunctions)
	mux.HandleFunc("POST /2015-03-31/functions/{$}", s.createFunction)
	mux.HandleFunc("GET /2015-03-31/functions/{name}/configuration", s.getConfiguration)
	mux.HandleFunc("PUT /2015-03-31/functions/{name}/configuration", s.updateConfiguration)
	mux.HandleFunc("POST /2015-03-31/functions/{name}/versions", s.publishVersion)
	mux.HandleFunc("POST /2015-03-31/functions/{name}/aliases", s.createAlias)
	mux.HandleFunc("PUT /2017-10-31/functions/{name}/concurrency", s.putConcurrency)
	mux.HandleFunc("POST /2015-03-31/functions/{name}/invocations", s.invoke)
	mux.HandleFunc("POST /2021-11-15/functions/{name}/response-streaming-invocations", s.invokeStreaming)
	return mux
}

// ServeHTTP answers a request of the AWS SDK.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amzn-Requestid", newID())
	if err := checkSignature(r, s.opt.Region); err != nil {
		writeError(w, err)
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		writeError(w, &apiError{status: http.StatusNotFound, code: "UnknownOperationException", message: "this endpoint does not know " + r.Method + " " + r.URL.Path})
		return
	}
	s.mux.ServeHTTP(w, r)
}

// authorization is the form of a Signature Version 4 (docs.aws.amazon.com, "AWS
// Signature Version 4 for API requests").
var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[^/, ]+/([0-9]{8})/([a-z0-9-]+)/lambda/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=[0-9a-f]{64}$`)

func checkSignature(r *http.Request, region string) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return &apiError{status: http.StatusForbidden, code: "MissingAuthenticationTokenException", message: "Missing Authentication Token"}
	}
	part := authorization.FindStringSubmatch(header)
	date := r.Header.Get("X-Amz-Date")
	if part == nil || !strings.HasPrefix(date, part[1]) || !strings.Contains(";"+part[3]+";", ";host;") || !strings.Contains(";"+part[3]+";", ";x-amz-date;") {
		return &apiError{status: http.StatusForbidden, code: "IncompleteSignatureException", message: "Authorization header requires a complete AWS Signature Version 4"}
	}
	if part[2] != region {
		return &apiError{status: http.StatusForbidden, code: "InvalidSignatureException",
			message: fmt.Sprintf("Credential should be scoped to a valid region, not '%s'.", part[2])}
	}
	return nil
}

// apiError is an error of the API itself: the function was not run.
type apiError struct {
	status     int
	code       string
	kind       string // User or Service; User when empty
	message    string
	reason     string // of throttling
	retryAfter string // seconds
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func writeError(w http.ResponseWriter, err error) {
	e, ok := err.(*apiError)
	if !ok {
		e = &apiError{status: http.StatusInternalServerError, code: "ServiceException", kind: "Service", message: err.Error()}
	}
	if e.retryAfter != "" {
		w.Header().Set("Retry-After", e.retryAfter)
	}
	w.Header().Set("X-Amzn-Errortype", e.code)
	body := map[string]string{"Type": cmp.Or(e.kind, "User"), "Message": e.message, "message": e.message}
	if e.reason != "" {
		body["Reason"] = e.reason
	}
	writeJSON(w, e.status, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// readJSON reads a request of the management API.
func readJSON(r *http.Request, v any) error {
	const most = 100 << 20
	if err := json.NewDecoder(io.LimitReader(r.Body, most)).Decode(v); err != nil && err != io.EOF {
		return &apiError{status: http.StatusBadRequest, code: "InvalidRequestContentException", message: "Could not parse request body into json: " + err.Error()}
	}
	return nil
}

// log writes a piece of a function's log.
func (s *Server) log(text []byte) {
	if s.opt.Log != nil {
		s.logMu.Lock()
		defer s.logMu.Unlock()
		s.opt.Log.Write(text)
	}
}

// newID is a random uuid, as request ids are.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
