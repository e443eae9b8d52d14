package registry

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// MaxSecretSize is how big a secret's file may be, in bytes.
const MaxSecretSize = 64 << 10

// credentialName is what systemd takes for a credential's name.
var credentialName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}$`)

// isSecretFile tells ${file:…} and ${cred:…} from variables, by what stands
// between the braces.
func isSecretFile(body string) bool {
	return strings.HasPrefix(body, "file:") || strings.HasPrefix(body, "cred:")
}

// secretPath is the file that file:/path or cred:name leads to. systemd gives
// a unit's credentials in $CREDENTIALS_DIRECTORY (systemd.exec, "Credentials").
func secretPath(ref string, lookup func(string) (string, bool)) (string, error) {
	kind, name, _ := strings.Cut(ref, ":")
	if kind == "file" {
		if !filepath.IsAbs(name) || filepath.Clean(name) != name {
			return "", errors.New("${file:…} takes an absolute path that has no . or .. in it")
		}
		return name, nil
	}
	if !credentialName.MatchString(name) {
		return "", errors.New("${cred:…} takes the name of a systemd credential: letters, digits, _ . @ and -")
	}
	dir, _ := lookup("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("the credential %s is not to be had: CREDENTIALS_DIRECTORY is not set, so no systemd unit passed any", name)
	}
	return filepath.Join(dir, name), nil
}

// readSecret reads a secret's file, without the line end that editors add.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path) // before opening: a named pipe would wait for a writer
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSecretSize+1))
	if err == nil && len(data) > MaxSecretSize {
		err = fmt.Errorf("it is larger than %d KiB", MaxSecretSize>>10)
	}
	return data, err
}

// LookupSecret finds the value that an …_env_var field names: an environment
// variable, or ${file:/path} or ${cred:name}, which is read anew each time, so
// that a changed secret counts from the next job on. It has os.LookupEnv's
// form.
func LookupSecret(name string) (value string, ok bool) {
	ref, isRef := secretReference(name)
	if !isRef {
		return os.LookupEnv(name)
	}
	path, err := secretPath(ref, os.LookupEnv)
	if err != nil {
		return "", false
	}
	data, err := readSecret(path)
	if err != nil {
		return "", false
	}
	return strings.TrimRight(string(data), "\r\n"), true
}

// secretReference is what stands between the braces when a text is nothing but
// ${file:…} or ${cred:…}.
func secretReference(text string) (ref string, ok bool) {
	body, found := strings.CutPrefix(text, "${")
	body, closed := strings.CutSuffix(body, "}")
	if !found || !closed || strings.Contains(body, "}") || !isSecretFile(body) {
		return "", false
	}
	return body, true
}

// secretFiles are the files that a registry's secrets come from, with what
// their content came to; nothing of it can be read back.
type secretFiles map[string][sha256.Size]byte

// digest is a file's content, or why there is none.
func digest(data []byte, err error) [sha256.Size]byte {
	if err != nil {
		return sha256.Sum256([]byte("error: " + err.Error()))
	}
	return sha256.Sum256(append([]byte("data: "), data...))
}

// changed tells whether one of the files reads otherwise now.
func (f secretFiles) changed(read func(string) ([]byte, error)) bool {
	for path, was := range f {
		if digest(read(path)) != was {
			return true
		}
	}
	return false
}

// variables is where the values of ${…} come from.
type variables struct {
	lookup func(string) (string, bool)
	read   func(string) ([]byte, error)
	files  secretFiles
}

func newVariables(opt Options) *variables {
	return &variables{lookup: opt.lookup(), read: opt.read(), files: secretFiles{}}
}

func (o Options) read() func(string) ([]byte, error) {
	if o.ReadSecret != nil {
		return o.ReadSecret
	}
	return readSecret
}

// secret reads what file:/path or cred:name leads to. The error holds nothing
// of the content.
func (v *variables) secret(ref string) (string, error) {
	path, err := secretPath(ref, v.lookup)
	if err != nil {
		return "", err
	}
	data, err := v.read(path)
	v.files[path] = digest(data, err)
	var system *fs.PathError
	if errors.As(err, &system) {
		err = system.Err
	}
	if err != nil {
		return "", fmt.Errorf("the secret's file %s cannot be read: %w", clip(path), err)
	}
	if strings.ContainsRune(string(data), 0) {
		return "", fmt.Errorf("the secret's file %s holds a zero byte", clip(path))
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}
