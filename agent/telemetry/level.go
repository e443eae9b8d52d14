package telemetry

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

// The ends of what steps reach.
const (
	mostVerbose  = slog.LevelDebug
	leastVerbose = slog.LevelError
	levelStep    = slog.LevelInfo - slog.LevelDebug
)

// Level is the log's level, which may change while the agent runs.
type Level struct {
	slog.LevelVar
	log *slog.Logger
}

// NewLevel makes a logger of the handler that newHandler makes, and its level.
func NewLevel(start slog.Level, newHandler func(slog.Leveler) slog.Handler) (*Level, *slog.Logger) {
	l := &Level{}
	l.LevelVar.Set(start)
	l.log = slog.New(newHandler(l))
	return l, l.log
}

// More is one step more verbose: error, warn, info, debug. Beyond is nothing.
func (l *Level) More() { l.Change(max(mostVerbose, l.Level()-levelStep)) }

// Less is one step less verbose.
func (l *Level) Less() { l.Change(min(leastVerbose, l.Level()+levelStep)) }

// Change sets the level, and says so whatever the level is.
func (l *Level) Change(to slog.Level) {
	if from := l.Level(); from != to {
		l.Set(min(from, to, slog.LevelInfo))
		l.log.Info("log level changed", "from", word(from), "to", word(to))
		l.Set(to)
	}
}

// ParseLevel reads debug, info, warn or error.
func ParseLevel(s string) (slog.Level, error) {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(strings.TrimSpace(s), word(l)) {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is not debug, info, warn or error", s)
}

func word(l slog.Level) string { return strings.ToLower(l.String()) }

// serveLevel answers GET and, where the listener is of this host alone, PUT
// with one of the words.
func (s *Server) serveLevel(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPut:
		if !s.loopback {
			answer(w, http.StatusForbidden, map[string]string{"error": "the level can be changed over a loopback address alone: use SIGUSR1 and SIGUSR2, or --listen 127.0.0.1:9464"})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64))
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		level, err := ParseLevel(string(body))
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		s.opt.Level.Change(level)
	default:
		w.Header().Set("Allow", "GET, PUT")
		answer(w, http.StatusMethodNotAllowed, map[string]string{"error": "use GET, or PUT with debug, info, warn or error"})
		return
	}
	answer(w, http.StatusOK, map[string]string{"level": word(s.opt.Level.Level())})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked may be gone
}
