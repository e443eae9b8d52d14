//go:build unix

package devdb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeInstall makes programs that only know their version.
func fakeInstall(t *testing.T, dir, version string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		text := "#!/bin/sh\necho '" + name + " (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func subfolder(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFindTakesTheChosenFolderThenPathThenTheHighestVersion(t *testing.T) {
	chosen := fakeInstall(t, t.TempDir(), "14.2")
	inPath := fakeInstall(t, t.TempDir(), "16.1")
	root := t.TempDir()
	fakeInstall(t, subfolder(t, root, "9", "bin"), "9.6.24")
	highest := fakeInstall(t, subfolder(t, root, "17", "bin"), "17.5 (Debian 17.5-1)")
	fakeInstall(t, subfolder(t, root, "15", "bin"), "15.4")
	subfolder(t, root, "18", "bin") // the client package alone
	installed := []string{filepath.Join(root, "*", "bin")}

	for _, c := range []struct {
		name, chosen, path, dir string
		major                   int
	}{
		{"chosen", chosen, inPath, chosen, 14},
		{"path", "", t.TempDir() + ":" + inPath, inPath, 16},
		{"installed", "", t.TempDir(), highest, 17},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := find(t.Context(), c.chosen, c.path, installed)
			if err != nil {
				t.Fatal(err)
			}
			if b.Dir != c.dir || b.Major != c.major {
				t.Errorf("found %+v, want version %d in %s", b, c.major, c.dir)
			}
		})
	}
}

func TestFindFollowsLinksToTheInstallation(t *testing.T) {
	real, links := fakeInstall(t, t.TempDir(), "15.4"), t.TempDir()
	for _, name := range programs {
		if err := os.Symlink(filepath.Join(real, name), filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := find(t.Context(), "", links, nil); err != nil || b.Dir != real {
		t.Errorf("found %+v, %v; want %s", b, err, real)
	}
}

func TestFindSaysWhatIsMissing(t *testing.T) {
	old := fakeInstall(t, t.TempDir(), "13.22")
	empty := t.TempDir()
	for _, c := range []struct{ name, chosen, path, says string }{
		{"nothing", "", empty, "no PostgreSQL server programs"},
		{"chosen folder is wrong", empty, old, EnvBin + "=" + empty},
		{"too old", "", old, "version 13, older than 14"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := find(t.Context(), c.chosen, c.path, nil)
			if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want ErrNotFound that says %q", err, c.says)
			}
		})
	}
}

func TestRemedyFitsTheSystem(t *testing.T) {
	for _, c := range []struct{ goos, release, says string }{
		{"linux", "NAME=Debian\nID=debian\n", "scripts/setup"},
		{"linux", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "scripts/setup"},
		{"linux", "ID=fedora\n", "dnf install postgresql-server"},
		{"linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install postgresql-server"},
		{"linux", "ID=alpine\n", "apk add postgresql"},
		{"linux", "", "your system's PostgreSQL server package"},
		{"darwin", "", "brew install"},
	} {
		if got := remedy(c.goos, c.release); !strings.Contains(got, c.says) {
			t.Errorf("%s %q: %q, want %q in it", c.goos, c.release, got, c.says)
		}
	}
}
