package lambdadev

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// latest is the version that can be changed.
const latest = "$LATEST"

// function is one function with its versions and aliases.
type function struct {
	name     string
	versions map[string]*version
	aliases  map[string]string // to a version
	reserved *int              // concurrency of its own
	inFlight int
}

// version is code with its configuration.
type version struct {
	function *function
	conf     configuration
	dir      string // with the unpacked code

	mu    sync.Mutex
	warm  []*environment // idle, the one used last at the end
	alive map[*environment]bool
}

// configuration is FunctionConfiguration of the API.
type configuration struct {
	FunctionName     string
	FunctionArn      string
	Runtime          string
	Role             string `json:",omitempty"`
	Handler          string
	CodeSize         int64
	CodeSha256       string
	Description      string
	Timeout          int // seconds
	MemorySize       int // MB
	LastModified     string
	Version          string
	Architectures    []string
	PackageType      string
	State            string
	LastUpdateStatus string
	RevisionId       string
	Environment      *environmentVariables `json:",omitempty"`
}

type environmentVariables struct{ Variables map[string]string }

// createRequest is CreateFunctionRequest, and UpdateFunctionConfigurationRequest
// where the code is left out.
type createRequest struct {
	FunctionName  string
	Runtime       string
	Role          string
	Handler       string
	Description   string
	Timeout       int
	MemorySize    int
	PackageType   string
	Architectures []string
	Publish       bool
	Environment   *environmentVariables
	Code          struct{ ZipFile []byte }
}

func invalid(format string, args ...any) error {
	return &apiError{status: http.StatusBadRequest, code: "InvalidParameterValueException", message: fmt.Sprintf(format, args...)}
}

var plainName = regexp.MustCompile(`^[a-zA-Z0-9-_]{1,64}$`)

func (q *createRequest) check() error {
	q.Timeout, q.MemorySize = cmp.Or(q.Timeout, 3), cmp.Or(q.MemorySize, 128)
	if len(q.Architectures) == 0 {
		q.Architectures = []string{"x86_64"}
	}
	switch {
	case !plainName.MatchString(q.FunctionName):
		return invalid("Value '%s' at 'functionName' failed to satisfy constraint: letters, digits, - and _, at most 64", q.FunctionName)
	case q.Runtime != "provided.al2023":
		return invalid("Value %s at 'runtime' is not supported here: build for provided.al2023", q.Runtime)
	case len(q.Code.ZipFile) == 0:
		return invalid("Please provide a source for function code.")
	case q.Handler == "":
		return invalid("Runtime and Handler are mandatory parameters for functions created with deployment packages.")
	}
	return q.checkLimits()
}

func (q *createRequest) checkLimits() error {
	switch {
	case q.Timeout < 1 || q.Timeout > 900:
		return invalid("Value '%d' at 'timeout' failed to satisfy constraint: Member must have value between 1 and 900", q.Timeout)
	case q.MemorySize < 128 || q.MemorySize > 10240:
		return invalid("'MemorySize' value failed to satisfy constraint: Member must have value between 128 and 10240")
	}
	return nil
}

func (s *Server) createFunction(w http.ResponseWriter, r *http.Request) {
	var q createRequest
	if err := readJSON(r, &q); err != nil {
		writeError(w, err)
		return
	}
	conf, err := s.create(&q)
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusCreated, conf)
}

func (s *Server) create(q *createRequest) (configuration, error) {
	if err := q.check(); err != nil {
		return configuration{}, err
	}
	dir, err := os.MkdirTemp(s.opt.Dir, q.FunctionName+"-")
	if err != nil {
		return configuration{}, err
	}
	if err := unpack(q.Code.ZipFile, dir); err != nil {
		os.RemoveAll(dir)
		return configuration{}, err
	}
	hash := sha256.Sum256(q.Code.ZipFile)
	f := &function{name: q.FunctionName, versions: map[string]*version{}, aliases: map[string]string{}}
	v := &version{function: f, dir: dir, alive: map[*environment]bool{}, conf: configuration{
		FunctionName: q.FunctionName, FunctionArn: s.arn(q.FunctionName, ""), Runtime: q.Runtime, Role: q.Role, Handler: q.Handler,
		CodeSize: int64(len(q.Code.ZipFile)), CodeSha256: base64.StdEncoding.EncodeToString(hash[:]), Description: q.Description,
		Timeout: q.Timeout, MemorySize: q.MemorySize, LastModified: modified(), Version: latest, Architectures: q.Architectures,
		PackageType: "Zip", State: "Active", LastUpdateStatus: "Successful", RevisionId: newID(), Environment: q.Environment}}
	f.versions[latest] = v
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.functions[f.name] != nil || s.closed {
		os.RemoveAll(dir)
		return configuration{}, &apiError{status: http.StatusConflict, code: "ResourceConflictException", message: "Function already exist: " + f.name}
	}
	s.functions[f.name] = f
	if q.Publish {
		return s.publish(f).conf, nil
	}
	return v.conf, nil
}

func modified() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000-0700") }

func (s *Server) arn(name, qualifier string) string {
	arn := fmt.Sprintf("arn:aws:lambda:%s:%s:function:%s", s.opt.Region, s.opt.Account, name)
	if qualifier != "" {
		arn += ":" + qualifier
	}
	return arn
}

// unpack writes a deployment package's files. Nothing leaves the directory.
func unpack(packed []byte, dir string) error {
	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		return invalid("Could not unzip uploaded file. Please check your file, then try to upload again.")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, file := range archive.File {
		if file.FileInfo().IsDir() {
			continue
		}
		name := filepath.Clean(strings.TrimPrefix(file.Name, "/"))
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return invalid("Could not unzip uploaded file: %v", err)
		}
		if err := unpackFile(root, name, file); err != nil {
			return invalid("Could not unzip uploaded file: %v", err)
		}
	}
	return nil
}

func unpackFile(root *os.Root, name string, file *zip.File) error {
	in, err := file.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	mode := file.Mode().Perm() | 0o444
	if name == "bootstrap" {
		mode |= 0o111
	}
	out, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// resolve finds what a name, an ARN or a part of one means, with its qualifier.
func (s *Server) resolve(name, qualifier string) (*version, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(name, qualifier)
}

func (s *Server) find(name, qualifier string) (*version, string, error) {
	plain := name
	if _, after, found := strings.Cut(name, "function:"); found {
		plain = after
	} else if parts := strings.Split(name, ":"); len(parts) > 1 && len(parts[0]) == 12 {
		plain = strings.Join(parts[1:], ":")
	}
	plain, own, _ := strings.Cut(plain, ":")
	if own != "" && qualifier != "" && own != qualifier {
		return nil, "", invalid("The derived qualifier from the function name does not match the specified qualifier.")
	}
	qualifier = cmp.Or(qualifier, own)
	missing := &apiError{status: http.StatusNotFound, code: "ResourceNotFoundException", message: "Function not found: " + s.arn(plain, qualifier)}
	f := s.functions[plain]
	if f == nil {
		return nil, "", missing
	}
	number := cmp.Or(qualifier, latest)
	if v, ok := f.aliases[number]; ok {
		number = v
	}
	v := f.versions[number]
	if v == nil {
		return nil, "", missing
	}
	return v, s.arn(plain, qualifier), nil
}

func (s *Server) getConfiguration(w http.ResponseWriter, r *http.Request) {
	v, arn, err := s.resolve(r.PathValue("name"), r.URL.Query().Get("Qualifier"))
	if err != nil {
		writeError(w, err)
		return
	}
	conf := v.configured()
	conf.FunctionArn = arn
	writeJSON(w, http.StatusOK, conf)
}

func (v *version) configured() configuration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conf
}

// updateConfiguration changes memory, timeout or variables of $LATEST. Its
// environments are not used again.
func (s *Server) updateConfiguration(w http.ResponseWriter, r *http.Request) {
	var q createRequest
	err := readJSON(r, &q)
	v, _, missing := s.resolve(r.PathValue("name"), "")
	if err = cmp.Or(err, missing); err != nil {
		writeError(w, err)
		return
	}
	conf := v.configured()
	q.Timeout, q.MemorySize = cmp.Or(q.Timeout, conf.Timeout), cmp.Or(q.MemorySize, conf.MemorySize)
	if err := q.checkLimits(); err != nil {
		writeError(w, err)
		return
	}
	v.mu.Lock()
	v.conf.Timeout, v.conf.MemorySize, v.conf.LastModified, v.conf.RevisionId = q.Timeout, q.MemorySize, modified(), newID()
	if q.Environment != nil {
		v.conf.Environment = q.Environment
	}
	conf, idle := v.conf, v.warm
	v.warm = nil
	v.mu.Unlock()
	for _, e := range idle {
		e.kill()
	}
	writeJSON(w, http.StatusOK, conf)
}

func (s *Server) publishVersion(w http.ResponseWriter, r *http.Request) {
	v, _, err := s.resolve(r.PathValue("name"), "")
	if err != nil {
		writeError(w, err)
		return
	}
	s.mu.Lock()
	published := s.publish(v.function)
	s.mu.Unlock()
	writeJSON(w, http.StatusCreated, published.conf)
}

// publish makes a version of what $LATEST is now.
func (s *Server) publish(f *function) *version {
	from := f.versions[latest]
	v := &version{function: f, dir: from.dir, conf: from.configured(), alive: map[*environment]bool{}}
	v.conf.Version = strconv.Itoa(len(f.versions))
	v.conf.FunctionArn = s.arn(f.name, v.conf.Version)
	f.versions[v.conf.Version] = v
	return v
}

func (s *Server) createAlias(w http.ResponseWriter, r *http.Request) {
	var q struct{ Name, FunctionVersion string }
	err := readJSON(r, &q)
	s.mu.Lock()
	defer s.mu.Unlock()
	v, _, missing := s.find(r.PathValue("name"), q.FunctionVersion)
	if err = cmp.Or(err, missing); err != nil {
		writeError(w, err)
		return
	}
	v.function.aliases[q.Name] = v.conf.Version
	writeJSON(w, http.StatusCreated, map[string]string{"AliasArn": s.arn(v.function.name, q.Name), "Name": q.Name, "FunctionVersion": v.conf.Version, "RevisionId": newID()})
}

func (s *Server) putConcurrency(w http.ResponseWriter, r *http.Request) {
	var q struct{ ReservedConcurrentExecutions *int }
	err := readJSON(r, &q)
	if err == nil && (q.ReservedConcurrentExecutions == nil || *q.ReservedConcurrentExecutions < 0) {
		err = invalid("ReservedConcurrentExecutions must be given, and not negative")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, _, missing := s.find(r.PathValue("name"), "")
	if err = cmp.Or(err, missing); err != nil {
		writeError(w, err)
		return
	}
	v.function.reserved = q.ReservedConcurrentExecutions
	writeJSON(w, http.StatusOK, map[string]int{"ReservedConcurrentExecutions": *q.ReservedConcurrentExecutions})
}

// listFunctions answers in the order of names, fifty at most.
func (s *Server) listFunctions(w http.ResponseWriter, r *http.Request) {
	most, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("MaxItems"), "50"))
	if err != nil || most < 1 {
		writeError(w, invalid("MaxItems is a number from 1 on"))
		return
	}
	most = min(most, 50)
	after := r.URL.Query().Get("Marker")
	s.mu.Lock()
	defer s.mu.Unlock()
	var page struct {
		Functions  []configuration
		NextMarker *string
	}
	page.Functions = []configuration{}
	for _, name := range slices.Sorted(maps.Keys(s.functions)) {
		if name <= after {
			continue
		}
		if len(page.Functions) == most {
			last := page.Functions[most-1].FunctionName
			page.NextMarker = &last
			break
		}
		page.Functions = append(page.Functions, s.functions[name].versions[latest].configured())
	}
	raw, err := json.Marshal(page)
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, json.RawMessage(raw))
}
