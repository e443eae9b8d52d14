package demo

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	pictures "image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// service is the application's HTTP side: a payment and a notification
// service that take their time, and fail or ask to wait now and then, as real
// ones do.
type service struct {
	url    string
	server *http.Server
}

func startService() (*service, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the demo's HTTP service: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments/charges", func(w http.ResponseWriter, r *http.Request) {
		busy(30*time.Millisecond, 25*time.Millisecond)
		switch n := rand.IntN(100); {
		case n < 4:
			http.Error(w, "the bank does not answer", http.StatusServiceUnavailable)
			return
		case n < 7:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many charges, come again in a second", http.StatusTooManyRequests)
			return
		}
		answer(w, map[string]any{"id": fmt.Sprintf("ch_%08x", rand.Uint32()), "status": "paid"})
	})
	mux.HandleFunc("GET /payments/balances/{account}", func(w http.ResponseWriter, r *http.Request) {
		busy(6*time.Millisecond, 4*time.Millisecond)
		answer(w, map[string]any{"account": r.PathValue("account"), "balance": rand.IntN(1_000_000)})
	})
	mux.HandleFunc("POST /payments/charges/{charge}/refunds", func(w http.ResponseWriter, r *http.Request) {
		busy(20*time.Millisecond, 10*time.Millisecond)
		if rand.IntN(3) == 0 {
			w.WriteHeader(http.StatusNotFound)
			json.NewEncoder(w).Encode(map[string]any{"error": "no such charge: " + r.PathValue("charge")})
			return
		}
		answer(w, map[string]any{"id": fmt.Sprintf("re_%08x", rand.Uint32()), "status": "refunded"})
	})
	mux.HandleFunc("POST /notifications/messages", func(w http.ResponseWriter, r *http.Request) {
		busy(12*time.Millisecond, 8*time.Millisecond)
		answer(w, map[string]any{"id": fmt.Sprintf("msg_%08x", rand.Uint32()), "queued": true})
	})
	mux.HandleFunc("POST /reports/daily_summaries", func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Date string }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		busy(150*time.Millisecond, 50*time.Millisecond)
		answer(w, map[string]any{"date": asked.Date, "orders": 40 + rand.IntN(60), "revenue_cents": 100_000 + rand.IntN(900_000)})
	})
	mux.HandleFunc("GET /images/{name}", draw)
	s := &service{url: "http://" + listener.Addr().String(), server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}}
	go s.server.Serve(listener)
	return s, nil
}

func (s *service) stop() { s.server.Close() }

// draw answers with a picture, a different one for each name.
func draw(w http.ResponseWriter, r *http.Request) {
	hash := fnv.New32a()
	hash.Write([]byte(r.PathValue("name")))
	seed := hash.Sum32()
	const side = 256
	drawn := pictures.NewRGBA(pictures.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			drawn.SetRGBA(x, y, color.RGBA{R: byte(uint32(x) ^ seed), G: byte(uint32(y) ^ seed>>8), B: byte(uint32(x+y) ^ seed>>16), A: 255})
		}
	}
	w.Header().Set("Content-Type", "image/png")
	png.Encode(w, drawn)
}

// busy takes about as long as told, with the long tail of real services.
func busy(base, spread time.Duration) {
	time.Sleep(base + time.Duration(rand.ExpFloat64()*float64(spread)))
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
