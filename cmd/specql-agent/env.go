package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// env returns the variable SPECQL_NAME, else what stands for it.
func env(name, otherwise string) string {
	if v, ok := os.LookupEnv("SPECQL_" + name); ok {
		return v
	}
	return otherwise
}

func envInt(name string, otherwise int) int {
	return parsed(name, otherwise, strconv.Atoi)
}

func envDuration(name string, otherwise time.Duration) time.Duration {
	return parsed(name, otherwise, time.ParseDuration)
}

func envBool(name string, otherwise bool) bool {
	return parsed(name, otherwise, strconv.ParseBool)
}

// parsed ends the program on a variable that is no such value: running with
// another one than was asked for would be worse.
func parsed[T any](name string, otherwise T, parse func(string) (T, error)) T {
	raw, ok := os.LookupEnv("SPECQL_" + name)
	if !ok {
		return otherwise
	}
	v, err := parse(raw)
	if err != nil {
		fmt.Fprintf(os.Stderr, "specql-agent: SPECQL_%s: %v\n", name, err)
		os.Exit(exitUsage)
	}
	return v
}
