package registry

import (
	"strings"
	"sync"
	"time"

	"github.com/specql/specql-ops/jobs"
)

// Config is one environment's registry, resolved and validated. It is never
// changed after Load returned it, so it may be shared by any number of jobs.
type Config struct {
	File     string     // the path that was read
	Env      string     // the overlay that was merged; empty for the base
	Hash     string     // SHA-256 of the file's bytes and Env, hexadecimal
	Services []*Service // in the order of the file
	Alerts   []Alert    // in the order of the file

	byName  map[string]*Service // lower-case name
	secrets map[string]struct{} // values that came from secret-looking variables
	tree    []*node             // the services' nodes, where Options.Origins asked for them
	source  []byte              // the file as it was read, for Redacted; no copy
	files   secretFiles         // that the secrets came from
	schemas *sync.Map           // *Operation → *operationSchemas, see Check
}

// Service finds a service by name, regardless of case.
func (c *Config) Service(name string) (*Service, bool) {
	s, ok := c.byName[strings.ToLower(name)]
	return s, ok
}

// Service is one entry of the services list.
type Service struct {
	Name           string             `yaml:"name"`
	Type           string             `yaml:"type"`
	Category       string             `yaml:"category"`
	ExecutionType  jobs.ExecutionType `yaml:"execution_type"` // http when the file gives none
	RunnerConfig   RunnerConfig       `yaml:"runner_config"`
	SecurityPolicy SecurityPolicy     `yaml:"security_policy"`
	Operations     []Operation        `yaml:"operations"`

	// Concurrency bounds the service's running jobs on one agent; 0 means
	// that only the agent's slots bound it.
	Concurrency int  `yaml:"concurrency"`
	LoadTest    bool `yaml:"load_test"` // load-test may run against it

	// Validation says what becomes of a job whose input or output does not
	// fit its schema: off (nobody looks), warn (also when empty: recorded
	// with the job) or strict (the attempt fails and is not retried).
	Validation string `yaml:"validation"`

	// ExplicitType tells whether the file gave execution_type.
	ExplicitType bool `yaml:"-"`
	// Hidden are the values that variables gave to what is sent by http.
	Hidden []Hidden `yaml:"-"`
}

// Operation finds an operation by its exact name.
func (s *Service) Operation(name string) (*Operation, bool) {
	for i := range s.Operations {
		if s.Operations[i].Name == name {
			return &s.Operations[i], true
		}
	}
	return nil, false
}

// Operation is one thing that a service does.
type Operation struct {
	Name         string         `yaml:"name"`
	InputSchema  map[string]any `yaml:"input_schema"`
	OutputSchema map[string]any `yaml:"output_schema"`
	Timeout      int            `yaml:"timeout"`     // seconds, 0: not given
	MaxRetries   *int           `yaml:"max_retries"` // attempts after the first; nil: the row's max_attempts alone decides

	Method  string   `yaml:"method"`  // http; POST when empty
	Path    string   `yaml:"path"`    // http; may hold {field}; "/" + Name when empty
	Body    string   `yaml:"body"`    // http; json (also when empty) or form
	Command []string `yaml:"command"` // shell, docker; "$input.field" is replaced whole

	Qualifier      string `yaml:"qualifier"`       // serverless
	InvocationType string `yaml:"invocation_type"` // serverless; runner_config's when empty
}

// RunnerConfig is runner_config. Which fields have a meaning depends on the
// service's type; the http fields are also accepted on other types, where
// base_url makes the service's HTTP fallback.
type RunnerConfig struct {
	Timeout int `yaml:"timeout"` // seconds, 0: not given

	// http
	BaseURL     string            `yaml:"base_url"`
	Headers     map[string]string `yaml:"headers"`
	AuthType    string            `yaml:"auth_type"` // bearer, basic, api_key, oauth2, aws_sigv4, none or empty
	AuthConfig  AuthConfig        `yaml:"auth_config"`
	RetryConfig RetryConfig       `yaml:"retry_config"`
	TLS         TLSConfig         `yaml:"tls"`
	Proxy       string            `yaml:"proxy"` // http or https URL; none when empty, whatever the environment says

	// shell
	WorkingDirectory string            `yaml:"working_directory"`
	Environment      map[string]string `yaml:"environment"` // shell, docker
	Shell            string            `yaml:"shell"`
	User             string            `yaml:"user"`               // shell, docker
	CommandFromInput string            `yaml:"command_from_input"` // "", script or command

	// docker
	Image        string            `yaml:"image"`
	Command      []string          `yaml:"command"`
	WorkingDir   string            `yaml:"working_dir"`
	Volumes      []Volume          `yaml:"volumes"`
	NetworkMode  string            `yaml:"network_mode"`
	ReadOnly     bool              `yaml:"read_only"`
	Tmpfs        map[string]string `yaml:"tmpfs"`
	RegistryAuth RegistryAuth      `yaml:"registry_auth"`
	StartAhead   *bool             `yaml:"start_ahead"` // containers may wait for jobs; true when nil

	// serverless
	Provider     string `yaml:"provider"`
	FunctionName string `yaml:"function_name"`
	Region       string `yaml:"region"`
	MemoryMB     int    `yaml:"memory_mb"`
	Qualifier    string `yaml:"qualifier"`
	EndpointURL  string `yaml:"endpoint_url"`
	RoleARN      string `yaml:"role_arn"` // assumed before functions are called; the agent's own identity when empty

	InvocationType          string  `yaml:"invocation_type"`     // request_response (also when empty), event or response_stream
	PricePerGBSecond        float64 `yaml:"price_per_gb_second"` // USD; the runner's default when 0
	PricePerMillionRequests float64 `yaml:"price_per_million_requests"`
}

// AuthConfig names the environment variables that hold an HTTP service's
// secrets; it never holds a secret.
type AuthConfig struct {
	TokenEnvVar    string `yaml:"token_env_var"`    // bearer
	UsernameEnvVar string `yaml:"username_env_var"` // basic
	PasswordEnvVar string `yaml:"password_env_var"` // basic
	APIKeyEnvVar   string `yaml:"api_key_env_var"`  // api_key
	HeaderName     string `yaml:"header_name"`      // api_key; X-API-Key when this and query_name are empty
	QueryName      string `yaml:"query_name"`       // api_key: a parameter of the query instead of a header

	// oauth2: client credentials (RFC 6749, section 4.4)
	TokenURL           string   `yaml:"token_url"`
	ClientIDEnvVar     string   `yaml:"client_id_env_var"`
	ClientSecretEnvVar string   `yaml:"client_secret_env_var"`
	Scopes             []string `yaml:"scopes"`
	Audience           string   `yaml:"audience"` // sent where the token endpoint asks for one

	// aws_sigv4; the variables are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
	// and AWS_SESSION_TOKEN when empty
	AWSRegion             string `yaml:"aws_region"`
	AWSService            string `yaml:"aws_service"` // execute-api, s3, es …
	AccessKeyIDEnvVar     string `yaml:"access_key_id_env_var"`
	SecretAccessKeyEnvVar string `yaml:"secret_access_key_env_var"`
	SessionTokenEnvVar    string `yaml:"session_token_env_var"`
}

// TLSConfig names the files that an HTTP service's connections need, as
// absolute paths on the agent's host. A file that changes counts from the next
// attempt on.
type TLSConfig struct {
	CAFile   string `yaml:"ca_file"`   // PEM: the authorities that are trusted instead of the host's
	CertFile string `yaml:"cert_file"` // PEM: the client's certificate, with its chain
	KeyFile  string `yaml:"key_file"`  // PEM: its private key, unencrypted
}

// RetryConfig bounds the retries inside one attempt of an HTTP call.
type RetryConfig struct {
	MaxRetries       int     `yaml:"max_retries"`        // 0: none
	BackoffFactor    float64 `yaml:"backoff_factor"`     // each wait is the last times this; 2 when 0
	RetryStatusCodes []int   `yaml:"retry_status_codes"` // 429, 500, 502, 503, 504 when empty
}

// Volume is one bind mount of a container.
type Volume struct {
	HostPath      string `yaml:"host_path"`
	ContainerPath string `yaml:"container_path"`
	Mode          string `yaml:"mode"` // ro (also when empty) or rw
}

// RegistryAuth names the environment variables that hold an image registry's
// credentials.
type RegistryAuth struct {
	ServerAddress  string `yaml:"server_address"`
	UsernameEnvVar string `yaml:"username_env_var"`
	PasswordEnvVar string `yaml:"password_env_var"`
}

// SecurityPolicy is security_policy: what a service's jobs may do at most.
type SecurityPolicy struct {
	ResourceLimits ResourceLimits  `yaml:"resource_limits"`
	CircuitBreaker *CircuitBreaker `yaml:"circuit_breaker"`

	// http
	AllowedDomains     []string `yaml:"allowed_domains"`       // base_url's host when empty
	AllowedNetworks    []string `yaml:"allowed_networks"`      // CIDR prefixes that names may resolve to
	MaxRequestSize     int64    `yaml:"max_request_size"`      // bytes, 0: 10 MiB
	MaxResponseSize    int64    `yaml:"max_response_size"`     // bytes, 0: 10 MiB
	RateLimitPerMinute int      `yaml:"rate_limit_per_minute"` // 0: none

	// shell
	AllowedCommands              []string `yaml:"allowed_commands"` // absolute paths
	WorkingDirectoryRestrictions []string `yaml:"working_directory_restrictions"`
	NetworkAccess                string   `yaml:"network_access"` // none, localhost, all; none when empty
	FileAccess                   string   `yaml:"file_access"`    // none, read, read_write; read_write when empty
	Isolation                    string   `yaml:"isolation"`      // full, process, none; the host's best when empty

	// docker
	AllowedImages      []string           `yaml:"allowed_images"`
	VolumeRestrictions VolumeRestrictions `yaml:"volume_restrictions"`
	NetworkIsolation   *bool              `yaml:"network_isolation"` // true when nil

	// serverless
	AllowedProviders []string   `yaml:"allowed_providers"`
	AllowedRegions   []string   `yaml:"allowed_regions"`
	CostLimits       CostLimits `yaml:"cost_limits"`
}

// ResourceLimits bounds one attempt. Zero means that the file gives none.
type ResourceLimits struct {
	CPUCores       float64 `yaml:"cpu_cores"`
	CPUSeconds     float64 `yaml:"cpu_seconds"`
	MemoryMB       int     `yaml:"memory_mb"` // MiB
	DiskMB         int     `yaml:"disk_mb"`   // MiB
	TimeoutSeconds int     `yaml:"timeout_seconds"`
}

// CircuitBreaker closes a service's lane after failures in a row.
type CircuitBreaker struct {
	FailureThreshold int `yaml:"failure_threshold"` // 5 when the file gives none
	RecoveryTimeout  int `yaml:"recovery_timeout"`  // seconds; 300 when the file gives none
}

// VolumeRestrictions bounds a container's volumes.
type VolumeRestrictions struct {
	AllowedHostPaths []string `yaml:"allowed_host_paths"`
	MaxVolumes       int      `yaml:"max_volumes"` // 0: no bound
}

// CostLimits bounds a function's use over a sliding hour, for all agents
// together. Zero means that the file gives none.
type CostLimits struct {
	MaxInvocationsPerHour int     `yaml:"max_invocations_per_hour"`
	MaxCostPerHour        float64 `yaml:"max_cost_per_hour"` // USD
}

// Alert is one entry of the alerts list (guide, Monitoring and Observability).
type Alert struct {
	Name          string        `yaml:"name"`
	Condition     string        `yaml:"condition"`      // such as http_error_rate > 0.05
	ExecutionType string        `yaml:"execution_type"` // http, shell, docker, serverless or any; any when the file gives none
	Window        time.Duration `yaml:"window"`         // what counts and rates look back on; 1h when the file gives none
	For           time.Duration `yaml:"for"`            // how long the condition must hold first; 0: at once
	Severity      string        `yaml:"severity"`       // info, warning or critical; warning when the file gives none
	Notify        []string      `yaml:"notify"`         // receivers; empty: the console and the log alone
}

// DefaultTimeout is how long an attempt of a type may take when neither row
// nor registry says.
func DefaultTimeout(t jobs.ExecutionType) time.Duration {
	switch t {
	case jobs.Shell:
		return 600 * time.Second
	case jobs.Docker:
		return 1800 * time.Second
	case jobs.Serverless:
		return 900 * time.Second
	default:
		return 300 * time.Second
	}
}

// TimeoutFor is the time that one attempt gets: the first given of the row's
// timeout_seconds, the operation's, runner_config's and the type's default,
// never above resource_limits.timeout_seconds.
func (s *Service) TimeoutFor(op *Operation, rowSeconds int) time.Duration {
	d := DefaultTimeout(s.ExecutionType)
	for _, seconds := range []int{rowSeconds, op.Timeout, s.RunnerConfig.Timeout} {
		if seconds > 0 {
			d = time.Duration(seconds) * time.Second
			break
		}
	}
	if limit := s.SecurityPolicy.ResourceLimits.TimeoutSeconds; limit > 0 {
		d = min(d, time.Duration(limit)*time.Second)
	}
	return d
}
