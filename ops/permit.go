package ops

import "strings"

// permitWords are what stands in a refusal before the registry's line that
// would permit what was refused.
const permitWords = "; to permit it add `"

// PermitLine is the line of the registry that a refusal says would permit what
// was refused; empty: it names none.
func PermitLine(refusal string) string {
	_, line, found := strings.Cut(refusal, permitWords)
	if !found {
		return ""
	}
	line, _, _ = strings.Cut(line, "` there")
	return line
}
