package registry

import (
	"fmt"
	"math"
	"reflect"
	"slices"
)

// bounds of a numeric field, both inclusive.
type bounds struct{ min, max float64 }

const year = 365 * 24 * 3600

// fieldBounds holds the fields whose numbers have bounds of their own; all
// others go from 0 to 2³¹-1. Zero stands for "not given" where it is allowed.
var fieldBounds = map[string]bounds{
	"timeout":            {0, year}, // seconds
	"timeout_seconds":    {0, year},
	"cpu_seconds":        {0, year},
	"recovery_timeout":   {1, year},
	"failure_threshold":  {1, 1e6},
	"max_retries":        {0, 100},
	"backoff_factor":     {1, 100},
	"retry_status_codes": {100, 599},
	"concurrency":        {0, 100_000},
	"cpu_cores":          {0, 4096},
	"memory_mb":          {0, 1 << 24}, // 16 TiB
	"disk_mb":            {0, 1 << 30}, // 1 PiB
	"max_request_size":   {0, 1 << 40},
	"max_response_size":  {0, 1 << 40},
	"max_volumes":        {0, 1000},
	"max_cost_per_hour":  {0, 1e9},

	"price_per_gb_second":        {0, 1}, // USD
	"price_per_million_requests": {0, 1000},
}

// within reports a number outside of its field's bounds.
func (d *decoder) within(n *node, f *field, x float64) bool {
	b, ok := fieldBounds[f.name]
	if !ok {
		b = bounds{0, math.MaxInt32}
	}
	if x >= b.min && x <= b.max {
		return true
	}
	d.fault(n, CodeRange, fmt.Sprintf("%s is outside of %s to %s", d.where(), plain(b.min), plain(b.max)),
		unitHelp(f.name))
	return false
}

func plain(x float64) string {
	if x == math.Trunc(x) {
		return fmt.Sprintf("%d", int64(x))
	}
	return fmt.Sprint(x)
}

// unitHelp says in which unit a field is written, since 30s and 512MB are the
// usual mistakes.
func unitHelp(name string) string {
	switch name {
	case "timeout", "timeout_seconds", "recovery_timeout", "cpu_seconds":
		return name + " is in seconds: write 30, not 30s"
	case "memory_mb", "disk_mb":
		return name + " is in MiB: write 512, not 512MB"
	case "max_request_size", "max_response_size":
		return name + " is in bytes: write 1048576, not 1MB"
	}
	return ""
}

// structNames are what messages call the parts of a service.
var structNames = map[reflect.Type]string{
	reflect.TypeFor[Service]():            "a service",
	reflect.TypeFor[Operation]():          "an operation",
	reflect.TypeFor[RunnerConfig]():       "runner_config",
	reflect.TypeFor[AuthConfig]():         "auth_config",
	reflect.TypeFor[RetryConfig]():        "retry_config",
	reflect.TypeFor[TLSConfig]():          "tls",
	reflect.TypeFor[Volume]():             "a volume",
	reflect.TypeFor[RegistryAuth]():       "registry_auth",
	reflect.TypeFor[SecurityPolicy]():     "security_policy",
	reflect.TypeFor[ResourceLimits]():     "resource_limits",
	reflect.TypeFor[CircuitBreaker]():     "circuit_breaker",
	reflect.TypeFor[VolumeRestrictions](): "volume_restrictions",
	reflect.TypeFor[CostLimits]():         "cost_limits",
	reflect.TypeFor[Alert]():              "an alert",
}

// renamed maps fields of earlier and foreign formats to today's.
var renamed = map[string]string{
	"bearer_token":   "name the variable instead: auth_type: bearer and auth_config.token_env_var under runner_config",
	"api_key":        "name the variable instead: auth_type: api_key and auth_config.api_key_env_var under runner_config",
	"token":          "name the variable instead: token_env_var",
	"password":       "name the variable instead: password_env_var",
	"username":       "name the variable instead: username_env_var",
	"auth":           "write auth_type and auth_config under runner_config",
	"retry_policy":   "write retry_config under runner_config",
	"retries":        "write retry_config.max_retries under runner_config",
	"memory_size":    "write memory_mb",
	"memory":         "write memory_mb",
	"env_vars":       "write environment under runner_config",
	"env":            "write environment under runner_config",
	"url":            "write base_url under runner_config",
	"endpoint":       "write base_url under runner_config",
	"script":         "write command under the operation: command: [program, argument]",
	"args":           "put the arguments into command: [program, argument]",
	"function":       "write function_name under runner_config",
	"cpu":            "write cpu_cores under security_policy.resource_limits",
	"runtime":        "write execution_type",
	"max_concurrent": "write concurrency",
}

// homes are the places where a field may belong, in the order in which they
// are tried.
var homes = []struct {
	t    reflect.Type
	path string
}{
	{reflect.TypeFor[RunnerConfig](), "runner_config"},
	{reflect.TypeFor[SecurityPolicy](), "security_policy"},
	{reflect.TypeFor[ResourceLimits](), "security_policy.resource_limits"},
	{reflect.TypeFor[CostLimits](), "security_policy.cost_limits"},
	{reflect.TypeFor[AuthConfig](), "runner_config.auth_config"},
	{reflect.TypeFor[RetryConfig](), "runner_config.retry_config"},
	{reflect.TypeFor[TLSConfig](), "runner_config.tls"},
	{reflect.TypeFor[VolumeRestrictions](), "security_policy.volume_restrictions"},
	{reflect.TypeFor[CircuitBreaker](), "security_policy.circuit_breaker"},
	{reflect.TypeFor[Service](), "the service itself"},
	{reflect.TypeFor[Operation](), "an operation"},
}

// unknownFieldHelp finds what was meant: a near name in the same place, the
// place where a field of that very name belongs, or a field's new name.
func unknownFieldHelp(key string, t reflect.Type) string {
	names := fieldsOf(t).names
	for _, n := range names {
		if fold(n) == fold(key) {
			return fmt.Sprintf("did you mean %q?", n)
		}
	}
	for _, h := range homes {
		if h.t != t && slices.Contains(fieldsOf(h.t).names, key) {
			return fmt.Sprintf("%s belongs under %s", key, h.path)
		}
	}
	if help, ok := renamed[key]; ok {
		return help
	}
	if n := nearest(key, names); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return "the fields here are " + oneOf(names)
}

// objectHelp shows how a struct that was written as something else looks.
func objectHelp(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Volume]():
		return "write host_path, container_path and mode of the volume, each on a line of its own"
	case reflect.TypeFor[Operation]():
		return "write - name: the_operation"
	case reflect.TypeFor[Service]():
		return "write - name: the_service, followed by its fields"
	}
	return "indent its fields below it"
}
