package runners

import (
	"errors"
	"fmt"
	"time"
)

// PolicyError is a refusal by the registry's security policy. Nothing was
// started and the attempt is not retried.
type PolicyError struct {
	Service string // the service's name
	Rule    string // the policy's field: allowed_commands, allowed_domains …
	Offered string // the value that was refused
	Permit  string // the YAML line that would permit it; empty when none should
}

// Error says what is "not allowed" and what would allow it.
func (e *PolicyError) Error() string {
	msg := fmt.Sprintf("not allowed: %q is refused by security_policy.%s of service %s", e.Offered, e.Rule, e.Service)
	if e.Permit != "" {
		msg += "; to permit it add `" + e.Permit + "` there"
	}
	return msg
}

// ConfigError is a fault of the registry or the row that no retry mends.
// Nothing was started.
type ConfigError struct {
	Service string
	Problem string // worded for the operator: what is wrong and what to do
}

// Error names the service and the problem.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("configuration of service %s: %s", e.Service, e.Problem)
}

// LimitError is a resource limit that the attempt broke. It counts as a
// violation; it is retried like any failure.
type LimitError struct {
	Limit   string // memory_mb, cpu_seconds, timeout_seconds, output_bytes …
	Used    string // what the attempt asked for, with its unit; empty when unknown
	Allowed string // what it was allowed, with its unit
}

// Error starts with "Resource limit: ".
func (e *LimitError) Error() string {
	if e.Used == "" {
		return fmt.Sprintf("Resource limit: %s: allowed %s", e.Limit, e.Allowed)
	}
	return fmt.Sprintf("Resource limit: %s: asked %s, allowed %s", e.Limit, e.Used, e.Allowed)
}

// FinalError is a failure that a retry cannot mend, such as most of HTTP's
// 4xx answers.
type FinalError struct{ Err error }

func (e *FinalError) Error() string { return e.Err.Error() }
func (e *FinalError) Unwrap() error { return e.Err }

// RetryAfterError is a failure whose service said when to come again.
type RetryAfterError struct {
	Err   error
	After time.Duration // not negative
}

func (e *RetryAfterError) Error() string { return e.Err.Error() }
func (e *RetryAfterError) Unwrap() error { return e.Err }

// Retryable tells whether another attempt may mend the error.
func Retryable(err error) bool {
	var policy *PolicyError
	var config *ConfigError
	var final *FinalError
	return !errors.As(err, &policy) && !errors.As(err, &config) && !errors.As(err, &final)
}

// Violation returns the policy's rule or the limit that err says was broken,
// and the value offered; ok is false for any other error.
func Violation(err error) (rule, offered string, ok bool) {
	if err == nil {
		return "", "", false
	}
	var policy *PolicyError
	if errors.As(err, &policy) {
		return policy.Rule, policy.Offered, true
	}
	var limit *LimitError
	if errors.As(err, &limit) {
		return limit.Limit, limit.Used, true
	}
	return "", "", false
}
