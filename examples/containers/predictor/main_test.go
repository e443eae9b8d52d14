package main

import (
	"math"
	"testing"
)

func TestALineIsContinued(t *testing.T) {
	for _, c := range []struct {
		orders           []float64
		next, confidence float64
	}{
		{[]float64{10, 20, 30}, 40, 1},
		{[]float64{5, 5, 5}, 5, 1},
		{[]float64{1, 3, 2, 4}, 4.5, 0.64},
	} {
		next, confidence := predict(c.orders)
		if math.Abs(next-c.next) > 1e-9 || math.Abs(confidence-c.confidence) > 1e-9 {
			t.Errorf("%v: %v with %v, want %v with %v", c.orders, next, confidence, c.next, c.confidence)
		}
	}
}
