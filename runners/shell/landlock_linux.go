package shell

import (
	"errors"
	"fmt"
	"os"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Access rights of Landlock's ABI, by what they mean here.
const (
	mayExecute  = ll.AccessFSExecute
	mayReadFile = ll.AccessFSReadFile
	mayRead     = ll.AccessFSReadFile | ll.AccessFSReadDir
	mayWrite    = ll.AccessFSWriteFile | ll.AccessFSTruncate
	mayAll      = 1<<16 - 1 // every right of ABI 5
	forFiles    = mayExecute | mayReadFile | mayWrite | ll.AccessFSIoctlDev
)

// fileRule grants rights on a path and all below it.
type fileRule struct {
	Path   string
	Access uint64
}

// needed is what nearly every program opens, whatever it does.
var needed = []fileRule{
	{"/lib", mayExecute | mayRead}, {"/lib32", mayExecute | mayRead}, {"/lib64", mayExecute | mayRead},
	{"/usr/lib", mayExecute | mayRead}, {"/usr/lib32", mayExecute | mayRead}, {"/usr/lib64", mayExecute | mayRead},
	{"/usr/libexec", mayExecute | mayRead}, {"/usr/local/lib", mayExecute | mayRead}, {"/usr/share", mayRead}, {"/nix/store", mayExecute | mayRead},
	{"/etc/ld.so.cache", mayRead}, {"/etc/localtime", mayRead}, {"/etc/passwd", mayRead}, {"/etc/group", mayRead},
	{"/etc/nsswitch.conf", mayRead}, {"/etc/hosts", mayRead}, {"/etc/host.conf", mayRead}, {"/etc/resolv.conf", mayRead}, {"/etc/gai.conf", mayRead},
	{"/etc/ssl/certs", mayRead}, {"/etc/ssl/openssl.cnf", mayRead}, {"/etc/pki/tls/certs", mayRead}, {"/etc/pki/ca-trust", mayRead},
	{"/etc/ca-certificates", mayRead}, {"/etc/alternatives", mayRead},
	{"/sys/devices/system/cpu", mayRead}, {"/sys/kernel/mm/transparent_hugepage", mayRead},
}

// devices may be read and written whatever file_access says; they keep
// nothing.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// fileRules are the rights of one attempt. The directories' own are last.
func fileRules(pl plan, dir, tmp, script string, allowed []allowedCommand) []fileRule {
	var rules []fileRule
	if pl.files == "none" {
		rules = append(rules, needed...)
		rules = append(rules, fileRule{programPath, mayExecute | mayReadFile}, fileRule{"/proc", mayRead})
		for _, a := range allowed {
			if a.resolved != "" {
				rules = append(rules, fileRule{a.resolved, mayExecute | mayReadFile})
			}
		}
		if script != "" {
			rules = append(rules, fileRule{script, mayReadFile})
		}
	} else {
		rules = append(rules, fileRule{"/", mayExecute | mayRead})
	}
	for _, device := range devices {
		rules = append(rules, fileRule{device, mayReadFile | mayWrite | ll.AccessFSIoctlDev})
	}
	access := uint64(mayExecute | mayRead)
	if pl.files == "read_write" {
		access = mayAll
	}
	return append(rules, fileRule{dir, access}, fileRule{tmp, mayAll})
}

// landlockABI is the host's version; 0 without Landlock.
func landlockABI() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version < 0 {
		return 0
	}
	return version
}

// handledRights are the rights that a version knows; what it does not know it
// does not restrict.
func handledRights(abi int) (files, scopes uint64) {
	switch {
	case abi >= 5:
		files = mayAll
	case abi >= 3:
		files = 1<<15 - 1
	case abi == 2:
		files = 1<<14 - 1
	default:
		files = 1<<13 - 1
	}
	if abi >= 6 {
		scopes = ll.ScopeAbstractUnixSocket | ll.ScopeSignal
	}
	return files, scopes
}

// restrictFiles applies the rules to the calling thread and all that it
// starts, which must have no_new_privs set.
func restrictFiles(rules []fileRule) error {
	files, scopes := handledRights(landlockABI())
	ruleset, err := ll.LandlockCreateRuleset(&ll.RulesetAttr{HandledAccessFS: files, Scoped: scopes}, 0)
	if err != nil {
		return fmt.Errorf("create ruleset: %w", err)
	}
	defer unix.Close(ruleset)
	for _, rule := range rules {
		if err := addRule(ruleset, rule, files); err != nil {
			return fmt.Errorf("%s: %w", rule.Path, err)
		}
	}
	return ll.LandlockRestrictSelf(ruleset, 0)
}

func addRule(ruleset int, rule fileRule, handled uint64) error {
	fd, err := unix.Open(rule.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EACCES) {
		return nil // what is not there needs no rights
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), rule.Path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	access := rule.Access & handled
	if !info.IsDir() {
		access &= forFiles
	}
	if access == 0 {
		return nil
	}
	return ll.LandlockAddPathBeneathRule(ruleset, &ll.PathBeneathAttr{ParentFd: fd, AllowedAccess: access}, 0)
}
