// Command predictor is the example of a program in a container: it reads a
// job's input as JSON from standard input, and answers with a JSON object on
// standard output. What it says on standard error is the job's log.
//
// It predicts a customer's next order by the straight line that fits the last
// orders best.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type input struct {
	ModelVersion string    `json:"model_version"`
	Orders       []float64 `json:"orders"`
}

type output struct {
	Prediction   float64 `json:"prediction"`
	Confidence   float64 `json:"confidence"` // R², from 0 to 1
	ModelVersion string  `json:"model_version"`
}

func main() {
	var in input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fail("the input is not what the operation's input_schema says: %v", err)
	}
	if len(in.Orders) < 2 {
		fail("%d orders are too few for a prediction: give at least 2", len(in.Orders))
	}
	fmt.Fprintf(os.Stderr, "predicting from %d orders\n", len(in.Orders))
	prediction, confidence := predict(in.Orders)
	if err := json.NewEncoder(os.Stdout).Encode(output{prediction, confidence, in.ModelVersion}); err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// predict fits a line by least squares and continues it by one.
func predict(y []float64) (next, r2 float64) {
	n := float64(len(y))
	var sumX, sumY, sumXY, sumXX float64
	for i, v := range y {
		x := float64(i)
		sumX, sumY, sumXY, sumXX = sumX+x, sumY+v, sumXY+x*v, sumXX+x*x
	}
	slope := (n*sumXY - sumX*sumY) / (n*sumXX - sumX*sumX)
	start := (sumY - slope*sumX) / n
	var residual, total float64
	for i, v := range y {
		off := v - (start + slope*float64(i))
		residual, total = residual+off*off, total+(v-sumY/n)*(v-sumY/n)
	}
	if total == 0 {
		return start, 1
	}
	return start + slope*n, 1 - residual/total
}
