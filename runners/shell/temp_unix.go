//go:build unix

package shell

import (
	"io/fs"
	"syscall"
)

// blocks is what a file holds on disk; a sparse file holds less than its
// size.
func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
