package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ServerOptions say what a Server shows.
type ServerOptions struct {
	Agent   Source
	Metrics prometheus.Gatherer
	Level   *Level
	Pprof   bool // /debug/pprof/
	Log     *slog.Logger
}

// Server answers /metrics, /healthz, /readyz, /loglevel and, where wanted,
// /debug/pprof/. It has no authentication: it belongs on a loopback address or
// into a network that only monitoring reaches.
type Server struct {
	opt      ServerOptions
	listener net.Listener
	http     *http.Server
	loopback bool
}

// Listen takes the address. Nobody is answered before Serve.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w: give another address, such as 127.0.0.1:9465, or off", address, err)
	}
	return l, nil
}

// NewRegistry makes the metrics of one agent, those of Go and of the process
// among them.
func NewRegistry(cs ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(cs...)
	return r
}

// NewServer makes the server of a listener.
func NewServer(l net.Listener, o ServerOptions) *Server {
	s := &Server{opt: o, listener: l}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		s.loopback = tcp.IP.IsLoopback()
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn), MaxRequestsInFlight: 4, EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.HandleFunc("/loglevel", s.serveLevel)
	if o.Pprof {
		// Not cmdline: it may hold the database's password.
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	s.http = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	return s
}

// Address is where the server listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Serve answers until Close.
func (s *Server) Serve() {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		s.opt.Log.Error("metrics and probes are not served any more", "error", err)
	}
}

// Close lets answers under way end, for at most two seconds.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.listener.Close() // also when Serve has not come to it yet
}

// serveHealth answers 200 while the process works: a probe that restarts it
// would help only where it does not.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	s.judge(w, "ok", "stuck", s.opt.Agent.Health().Stuck)
}

// serveReady answers 200 while the agent takes jobs.
func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	s.judge(w, "ready", "not ready", s.opt.Agent.Health().NotReady)
}

func (s *Server) judge(w http.ResponseWriter, good, bad string, reasons []string) {
	if len(reasons) > 0 {
		answer(w, http.StatusServiceUnavailable, map[string]any{"status": bad, "reasons": reasons})
		return
	}
	answer(w, http.StatusOK, map[string]any{"status": good})
}
