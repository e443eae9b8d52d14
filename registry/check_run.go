package registry

import (
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/specql/specql-ops/jobs"
)

var authConfigType = reflect.TypeFor[AuthConfig]()

// shell checks a service that runs programs on the agent's host.
func (c *checker) shell() {
	rc, policy := &c.s.RunnerConfig, &c.s.SecurityPolicy
	wd := c.n.path("runner_config", "working_directory")
	if given(wd) && c.absolute(wd, "working_directory", rc.WorkingDirectory) {
		c.directoryAllowed(wd)
		c.directory(wd, rc.WorkingDirectory)
	}
	c.words(c.n.path("runner_config", "command_from_input"), "command_from_input", "script", "command", "")
	c.words(c.n.path("security_policy", "network_access"), "network_access", "none", "localhost", "all")
	c.words(c.n.path("security_policy", "file_access"), "file_access", "none", "read", "read_write")
	c.words(c.n.path("security_policy", "isolation"), "isolation", "full", "process", "none")
	eachString(c.n.path("security_policy", "working_directory_restrictions"), policy.WorkingDirectoryRestrictions,
		func(n *node, v string) { c.absolute(n, "working_directory_restrictions", v) })
	if sh := c.n.path("runner_config", "shell"); given(sh) && c.absolute(sh, "shell", rc.Shell) &&
		!slices.Contains(policy.AllowedCommands, rc.Shell) {
		c.warn(CodeNotAllowed, sh, "add it to security_policy.allowed_commands", "the shell %s is not in allowed_commands", shown(sh))
	}
	list := c.n.path("security_policy", "allowed_commands")
	if !given(list) || list.kind == seqKind && len(list.kids) == 0 {
		c.fault(CodeMissing, c.at("security_policy", "allowed_commands"), "list the absolute paths of the programs that it may run",
			"a shell service needs security_policy.allowed_commands: without it nothing is allowed")
	}
	eachString(list, policy.AllowedCommands, func(n *node, v string) {
		if c.absolute(n, "the command", v) {
			c.program(n, v)
		}
	})
	c.environment()
}

// directoryAllowed compares working_directory with the policy's own list.
func (c *checker) directoryAllowed(n *node) {
	allowed := c.s.SecurityPolicy.WorkingDirectoryRestrictions
	if len(allowed) == 0 || slices.ContainsFunc(allowed, func(dir string) bool { return within(c.s.RunnerConfig.WorkingDirectory, dir) }) {
		return
	}
	c.fault(CodeNotAllowed, n, "move it, or add it to security_policy.working_directory_restrictions",
		"working_directory %s is outside of working_directory_restrictions", shown(n))
}

// within tells whether path is dir or below it, by their text.
func within(path, dir string) bool {
	path, dir = filepath.Clean(path), filepath.Clean(dir)
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// program warns of a program that this host does not have or cannot run.
func (c *checker) program(n *node, path string) {
	c.onHost(n, path, func(info fs.FileInfo) string {
		switch {
		case info.IsDir():
			return "is a directory"
		case info.Mode()&0o111 == 0:
			return "is not executable"
		}
		return ""
	})
}

// directory warns of a working directory that this host does not have.
func (c *checker) directory(n *node, path string) {
	c.onHost(n, path, func(info fs.FileInfo) string {
		if !info.IsDir() {
			return "is not a directory"
		}
		return ""
	})
}

// onHost warns of a path that this host lacks, or that fails the test.
func (c *checker) onHost(n *node, path string, test func(fs.FileInfo) string) {
	if c.opt.Stat == nil {
		return
	}
	problem, known := c.exists[path]
	if !known {
		if info, err := c.opt.Stat(path); err != nil {
			problem = "does not exist"
		} else {
			problem = test(info)
		}
		c.exists[path] = problem
	}
	if problem != "" {
		c.warn(CodeMissingProgram, n, "check the path where the agent runs", "%s %s on this host", shown(n), problem)
	}
}

// environment checks the variables that a program or container gets.
func (c *checker) environment() {
	env := c.n.path("runner_config", "environment")
	if env == nil || env.kind != mapKind {
		return
	}
	for i := range env.kids {
		k := &env.kids[i]
		at := &node{line: k.line, col: k.col}
		switch {
		case !envName(k.key):
			c.fault(CodeEnum, at, "use letters, digits and _", "%q is not the name of an environment variable", clip(k.key))
		case strings.HasPrefix(k.key, "SPECQL_"):
			c.fault(CodeConflict, at, "choose another name", "%s is set by the agent: names with SPECQL_ are its own", clip(k.key))
		case strings.ContainsRune(k.node.value(), 0):
			c.fault(CodeEnum, at, "", "%s holds a zero byte", clip(k.key))
		case secretName(k.key) && k.node.kind == stringKind && k.node.exp == nil && k.node.text != "":
			c.warn(CodeSecret, k.node, "write ${VARIABLE} instead", "the value of %s is written into the file", clip(k.key))
		}
	}
}

var inputReference = regexp.MustCompile(`^\$input(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

// command checks an operation's command, and that a shell operation without
// one has a directory in which its script may be.
func (c *checker) command(op *Operation, n *node) {
	list := n.get("command")
	if !given(list) {
		if c.s.ExecutionType == jobs.Shell && !given(c.n.path("runner_config", "working_directory")) && c.s.RunnerConfig.CommandFromInput == "" {
			c.fault(CodeMissing, n, "add command: [program, argument], or runner_config.working_directory with a script named after the operation",
				"the operation %s has neither a command nor a working_directory to find its script in", clip(op.Name))
		}
		return
	}
	if list.kind != seqKind {
		return
	}
	if len(list.kids) == 0 {
		c.fault(CodeMissing, list, "write command: [program, argument]", "the command of operation %s is empty", clip(op.Name))
		return
	}
	for i, arg := range op.Command {
		a := list.at(i)
		if a.kind != stringKind {
			continue
		}
		switch {
		case i == 0 && strings.TrimSpace(arg) == "":
			c.fault(CodeMissing, a, "write the program's path", "the command of operation %s has no program", clip(op.Name))
		case i == 0 && strings.HasPrefix(arg, "$input"):
			c.fault(CodeNotAllowed, a, "write the program's path; only arguments come from the input", "the program of operation %s cannot come from the input", clip(op.Name))
		case strings.ContainsRune(arg, 0):
			c.fault(CodeEnum, a, "", "an argument holds a zero byte")
		case strings.HasPrefix(arg, "$input") && !inputReference.MatchString(arg):
			c.fault(CodeEnum, a, "write $input.field, alone in its argument", "%s is not a field of the input", shown(a))
		case strings.Contains(arg, "$input."):
			c.inputField(op, a, arg)
		}
	}
	if c.s.ExecutionType == jobs.Shell {
		c.commandProgram(op, list.at(0))
	}
}

func (c *checker) inputField(op *Operation, n *node, arg string) {
	if !inputReference.MatchString(arg) {
		c.warn(CodeIgnored, n, "make it an argument of its own", "%s is passed as it stands: $input.field is replaced only when it is the whole argument", shown(n))
		return
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(arg, "$input."), ".")
	if fields := schemaFields(op.InputSchema); len(fields) > 0 && !slices.Contains(fields, name) {
		help := "add it to input_schema"
		if near := nearest(name, fields); near != "" {
			help = "did you mean $input." + near + "?"
		}
		c.warn(CodeSchema, n, help, "%s is not in input_schema", shown(n))
	}
}

// commandProgram compares a program with allowed_commands by its text. The
// runner resolves links, so a mismatch here is a doubt, not a fault.
func (c *checker) commandProgram(op *Operation, n *node) {
	program := op.Command[0]
	allowed := c.s.SecurityPolicy.AllowedCommands
	switch {
	case program == "" || strings.HasPrefix(program, "$input") || len(allowed) == 0:
	case !filepath.IsAbs(program):
		help := "write the whole path"
		for _, a := range allowed {
			if filepath.Base(a) == program {
				help = "write " + clip(a)
			}
		}
		c.fault(CodeEnum, n, help, "the program %s is not an absolute path", shown(n))
	case !slices.Contains(allowed, program):
		c.warn(CodeNotAllowed, n, "add it to security_policy.allowed_commands",
			"the program %s is not in allowed_commands; it runs only where it is a link to one that is", shown(n))
	}
}

// docker checks a service that runs containers.
func (c *checker) docker() {
	rc, policy := &c.s.RunnerConfig, &c.s.SecurityPolicy
	image := c.n.path("runner_config", "image")
	if !given(image) || image.kind == stringKind && strings.TrimSpace(image.value()) == "" {
		c.fault(CodeMissing, orElse(image, c.at("runner_config")), "add image: under runner_config", "a docker service needs runner_config.image")
	} else if image.kind == stringKind {
		if strings.ContainsAny(rc.Image, " \t\n") {
			c.fault(CodeEnum, image, "write it as name:tag or name@sha256:…", "image %s holds a blank", shown(image))
		} else if !imageAllowed(policy.AllowedImages, rc.Image) {
			help := "add the image to security_policy.allowed_images"
			if n := image.exp; n == nil {
				help = "add " + clip(rc.Image) + " to security_policy.allowed_images"
			}
			c.fault(CodeNotAllowed, image, help, "image %s is not in allowed_images", shown(image))
		} else if tag := movingTag(rc.Image); tag != "" {
			c.warn(CodeUnpinned, image, "write a version's tag or, better, the digest: name@sha256:…", "image %s %s: another image may stand behind it tomorrow", shown(image), tag)
		}
	}
	if wd := c.n.path("runner_config", "working_dir"); given(wd) {
		c.absolute(wd, "working_dir", rc.WorkingDir)
	}
	c.volumes()
	c.environment()
	if tmpfs := c.n.path("runner_config", "tmpfs"); tmpfs != nil && tmpfs.kind == mapKind {
		for _, k := range tmpfs.kids {
			c.absolute(&node{kind: stringKind, line: k.line, col: k.col, text: k.key}, "tmpfs", k.key)
		}
	}
	c.networkMode()
	auth := c.n.path("runner_config", "registry_auth")
	c.envVar(auth.get("username_env_var"), "registry_auth.username_env_var")
	c.envVar(auth.get("password_env_var"), "registry_auth.password_env_var")
	if given(auth) && auth.kind == mapKind {
		c.required(auth, "username_env_var", "password_env_var")
	}
}

func (c *checker) networkMode() {
	n := c.n.path("runner_config", "network_mode")
	if !given(n) || n.kind != stringKind {
		return
	}
	mode := c.s.RunnerConfig.NetworkMode
	isolated := c.s.SecurityPolicy.NetworkIsolation == nil || *c.s.SecurityPolicy.NetworkIsolation
	switch {
	case strings.HasPrefix(mode, "container:"):
		c.fault(CodeNotAllowed, n, "use none, bridge or a named network", "network_mode %s would share another container's network", shown(n))
	case strings.EqualFold(mode, "host"):
		c.fault(CodeNotAllowed, n, "use none, bridge or a named network", "network_mode %s would share the host's network", shown(n))
	case mode != "none" && isolated:
		c.fault(CodeConflict, n, "set security_policy.network_isolation: false, or network_mode: none",
			"network_mode %s contradicts network_isolation, which is on unless the policy says false", shown(n))
	}
}

// movingTag says why an image's reference will lead to another image one day;
// empty: it is pinned by a digest or a version's tag.
func movingTag(image string) string {
	name, _, digest := strings.Cut(image, "@")
	if digest {
		return ""
	}
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag = name[i+1:]
	}
	switch tag {
	case "":
		return "has no tag"
	case "latest":
		return "has the tag latest"
	}
	return ""
}

// imageAllowed compares exactly, or by digest where both give one.
func imageAllowed(allowed []string, image string) bool {
	if grants(allowed, image) {
		return true
	}
	name, digest, ok := strings.Cut(image, "@")
	if !ok {
		return false
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return slices.Contains(allowed, name+"@"+digest)
}

func (c *checker) volumes() {
	list := c.n.path("runner_config", "volumes")
	if list == nil || list.kind != seqKind {
		return
	}
	restrict := &c.s.SecurityPolicy.VolumeRestrictions
	if restrict.MaxVolumes > 0 && len(list.kids) > restrict.MaxVolumes {
		c.fault(CodeNotAllowed, list, "remove some, or raise the bound", "%d volumes are more than volume_restrictions.max_volumes, %d", len(list.kids), restrict.MaxVolumes)
	}
	targets := map[string]int32{}
	for i, v := range c.s.RunnerConfig.Volumes {
		n := list.at(i)
		if n.kind != mapKind {
			continue
		}
		c.required(n, "host_path", "container_path")
		c.words(n.get("mode"), "mode", "ro", "rw")
		if host := n.get("host_path"); v.HostPath != "" && c.absolute(host, "host_path", v.HostPath) && len(restrict.AllowedHostPaths) > 0 {
			c.hostPath(host, v.HostPath)
		}
		target := n.get("container_path")
		if v.ContainerPath == "" || !c.absolute(target, "container_path", v.ContainerPath) {
			continue
		}
		if v.ContainerPath == "/" {
			c.fault(CodeEnum, target, "mount below it", "container_path cannot be the root")
		}
		if line, dup := targets[filepath.Clean(v.ContainerPath)]; dup {
			c.fault(CodeConflict, target, "mount one of them elsewhere", "another volume is mounted at %s, in line %d", shown(target), line)
		}
		targets[filepath.Clean(v.ContainerPath)] = n.line
	}
	eachString(c.n.path("security_policy", "volume_restrictions", "allowed_host_paths"), restrict.AllowedHostPaths,
		func(n *node, v string) { c.absolute(n, "allowed_host_paths", v) })
}

// hostPath compares a volume's path with the paths that are allowed: by its
// text, and where this host can tell, by what its links lead to.
func (c *checker) hostPath(n *node, path string) {
	allowed := c.s.SecurityPolicy.VolumeRestrictions.AllowedHostPaths
	inside := func(path string, resolve bool) bool {
		return slices.ContainsFunc(allowed, func(dir string) bool {
			if resolve {
				dir, _ = c.resolve(dir)
			}
			return within(path, dir)
		})
	}
	if !inside(path, false) {
		c.fault(CodeNotAllowed, n, "add it to security_policy.volume_restrictions.allowed_host_paths",
			"host_path %s is outside of volume_restrictions.allowed_host_paths", shown(n))
		return
	}
	if target, ok := c.resolve(path); ok && !inside(target, true) {
		c.fault(CodeNotAllowed, n, "mount what it leads to, if that may be mounted",
			"host_path %s is a link on this host that leads outside of volume_restrictions.allowed_host_paths", shown(n))
	}
}

// resolve follows a path's links on this host; ok is false where it cannot.
func (c *checker) resolve(path string) (target string, ok bool) {
	if c.opt.Resolve == nil {
		return path, false
	}
	target, err := c.opt.Resolve(path)
	if err != nil {
		return path, false
	}
	return target, true
}

// Bounds of AWS Lambda (docs.aws.amazon.com, "Lambda quotas").
const (
	lambdaTimeout   = 900   // seconds
	lambdaMinMemory = 128   // MiB
	lambdaMaxMemory = 10240 // MiB
)

var (
	regionForm    = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	functionForm  = regexp.MustCompile(`^(arn:aws[a-z-]*:lambda:[a-z0-9-]+:[0-9]{12}:function:|[0-9]{12}:function:|[0-9]{12}:)?[A-Za-z0-9_-]{1,140}(:(\$LATEST|[A-Za-z0-9_-]+))?$`)
	roleForm      = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,512}$`)
	qualifierForm = regexp.MustCompile(`^(\$LATEST|[A-Za-z0-9_-]{1,128})$`)
)

// defaultProvider is the one of a serverless service that names none.
const defaultProvider = "aws"

// providers are those whose functions a runner invokes, with what their services
// need.
var providers = map[string]func(*checker){defaultProvider: (*checker).lambda}

// serverless checks a service that calls cloud functions.
func (c *checker) serverless() {
	rc, policy := &c.s.RunnerConfig, &c.s.SecurityPolicy
	at := c.n.path("runner_config", "provider")
	name, label := strings.ToLower(rc.Provider), ""
	switch {
	case !given(at):
		at, name, label = c.at("runner_config"), defaultProvider, " (the default)"
	case at.kind != stringKind: // reported already
		providers[defaultProvider](c)
		return
	}
	check, supported := providers[name]
	switch {
	case supported:
		rc.Provider = name
		if !grants(policy.AllowedProviders, name) {
			c.fault(CodeNotAllowed, at, "add "+name+" to security_policy.allowed_providers", "provider %s%s is not in allowed_providers", name, label)
		}
		check(c)
		return
	case slices.Contains([]string{"gcp", "google", "azure"}, name):
		c.fault(CodeUnsupported, at, "AWS Lambda is: provider: aws; or call the function's URL as an http service", "provider %s is not supported", shown(at))
	default:
		c.fault(CodeEnum, at, "write provider: aws", "provider %s does not exist", shown(at))
	}
	providers[defaultProvider](c) // the rest is most likely right once the provider is
}

// lambda checks what AWS Lambda needs.
func (c *checker) lambda() {
	rc, policy := &c.s.RunnerConfig, &c.s.SecurityPolicy
	config := c.at("runner_config")
	for _, name := range []string{"function_name", "region"} {
		if v := config.get(name); !given(v) || v.kind == stringKind && strings.TrimSpace(v.value()) == "" {
			c.fault(CodeMissing, orElse(v, config), "add "+name+": under runner_config", "a serverless service needs runner_config.%s", name)
		}
	}
	if n := config.get("function_name"); rc.FunctionName != "" && !functionForm.MatchString(rc.FunctionName) {
		c.fault(CodeEnum, n, "write the function's name or ARN", "function_name %s is not one that AWS Lambda knows", shown(n))
	}
	if n := config.get("region"); rc.Region != "" {
		if !regionForm.MatchString(rc.Region) {
			c.fault(CodeEnum, n, "write a region such as us-east-1", "region %s is not a region's name", shown(n))
		} else if !grants(policy.AllowedRegions, rc.Region) {
			c.fault(CodeNotAllowed, n, "add it to security_policy.allowed_regions", "region %s is not in allowed_regions", shown(n))
		}
	}
	if n := config.get("memory_mb"); rc.MemoryMB > 0 {
		limit := policy.ResourceLimits.MemoryMB
		if rc.MemoryMB < lambdaMinMemory || rc.MemoryMB > lambdaMaxMemory {
			c.fault(CodeRange, n, "", "memory_mb of a function is between %d and %d", lambdaMinMemory, lambdaMaxMemory)
		} else if limit > 0 && rc.MemoryMB > limit {
			c.fault(CodeNotAllowed, n, "lower it, or raise the limit", "memory_mb %d is above resource_limits.memory_mb, %d", rc.MemoryMB, limit)
		}
	}
	if n := config.get("role_arn"); rc.RoleARN != "" && !roleForm.MatchString(rc.RoleARN) {
		c.fault(CodeEnum, n, "write it like arn:aws:iam::123456789012:role/NAME", "role_arn %s is not a role's ARN", shown(n))
	}
	c.words(config.get("invocation_type"), "invocation_type", "request_response", "event", "response_stream")
	c.qualifier(config.get("qualifier"), rc.Qualifier)
	c.functionTimeout(config.get("timeout"), rc.Timeout)
	c.functionTimeout(c.n.path("security_policy", "resource_limits", "timeout_seconds"), policy.ResourceLimits.TimeoutSeconds)
	for i := range c.s.Operations {
		op, n := &c.s.Operations[i], c.n.get("operations").at(i)
		c.functionTimeout(n.get("timeout"), op.Timeout)
		c.qualifier(n.get("qualifier"), op.Qualifier)
		c.words(n.get("invocation_type"), "invocation_type", "request_response", "event", "response_stream")
	}
	if n := config.get("endpoint_url"); given(n) && n.kind == stringKind {
		c.url(n, "endpoint_url", rc.EndpointURL)
	}
}

func (c *checker) qualifier(n *node, value string) {
	if given(n) && value != "" && !qualifierForm.MatchString(value) {
		c.fault(CodeEnum, n, "write an alias, a version or $LATEST", "qualifier %s is not one that AWS Lambda knows", shown(n))
	}
}

func (c *checker) functionTimeout(n *node, seconds int) {
	if given(n) && seconds > lambdaTimeout {
		c.fault(CodeRange, n, "AWS Lambda ends every function after 900 s", "%d s are more than a function can run", seconds)
	}
}
