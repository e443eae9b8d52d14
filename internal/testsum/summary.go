package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// summary counts while events come in, package by package.
type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	packages                map[string]*pkg
	builds                  map[string][]string // import path → what the compiler said
	skips                   map[string][]string // reason → tests
}

type pkg struct {
	tests  map[string]*test
	order  []string // tests in the order in which they began
	output []string // what no test said
}

type test struct {
	action   string // pass, fail or skip; empty: it never ended
	output   []string
	children int
}

func newSummary(out io.Writer) *summary {
	return &summary{
		out:      out,
		packages: map[string]*pkg{},
		builds:   map[string][]string{},
		skips:    map[string][]string{},
	}
}

func (s *summary) add(e event) {
	switch {
	case e.Action == "build-output":
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
	case e.Package == "":
		// build-fail: the package's own fail follows and names it.
	case e.Test != "":
		s.addTest(e)
	default:
		s.addPackage(e)
	}
}

func (s *summary) addTest(e event) {
	p := s.pkg(e.Package)
	t := p.tests[e.Test]
	if t == nil {
		t = &test{}
		p.tests[e.Test] = t
		p.order = append(p.order, e.Test)
		if parent := p.tests[above(e.Test)]; parent != nil {
			parent.children++
		}
	}
	switch e.Action {
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "fail", "skip":
		t.action = e.Action
	}
}

func (s *summary) addPackage(e event) {
	p := s.pkg(e.Package)
	switch e.Action {
	case "output":
		p.output = append(p.output, e.Output)
	case "pass", "fail", "skip":
		delete(s.packages, e.Package)
		s.close(e, p)
	}
}

// close counts a package that ended, and prints it.
func (s *summary) close(e event, p *pkg) {
	ran, failed := s.count(e, p)
	switch {
	case e.Action == "skip":
		return // no test files
	case e.Action == "pass":
		fmt.Fprintf(s.out, "ok    %s  %d tests  %.1fs\n", e.Package, ran, e.Elapsed)
		return
	case failed == 0:
		s.failed++ // it did not build, or ended outside of any test
	}
	s.print(s.builds[e.FailedBuild])
	s.print(p.output)
	fmt.Fprintf(s.out, "FAIL  %s  %.1fs\n", e.Package, e.Elapsed)
}

// count adds the package's tests to the totals and prints those that failed.
func (s *summary) count(e event, p *pkg) (ran, failed int) {
	// A failing subtest fails all above it; they are told apart from those
	// that failed by themselves. Subtests begin after what is above them.
	below := map[string]bool{}
	for _, name := range slices.Backward(p.order) {
		t := p.tests[name]
		// What was running when the package failed is what failed it.
		unfinished := t.action == "" && e.Action == "fail"
		bad := t.action == "fail" || unfinished
		if bad {
			below[above(name)] = true
		}
		own := !below[name]
		if t.children > 0 && !(own && bad) {
			continue
		}
		ran++
		switch {
		case bad:
			failed++
			s.failed++
		case t.action == "skip":
			s.skipped++
			reason := skipReason(t.output)
			s.skips[reason] = append(s.skips[reason], short(e.Package)+"."+name)
		case t.action == "pass":
			s.passed++
		}
	}
	for _, name := range p.order {
		if t := p.tests[name]; t.action == "fail" || t.action == "" && e.Action == "fail" {
			s.print(t.output)
		}
	}
	return ran, failed
}

// report prints the skips and the line of totals, and returns the failures.
// Packages that never ended, as when go test was interrupted, count as failed.
func (s *summary) report() int {
	for _, name := range slices.Sorted(maps.Keys(s.packages)) {
		s.close(event{Action: "fail", Package: name}, s.packages[name])
		fmt.Fprintf(s.out, "      %s did not end\n", name)
	}
	for _, reason := range slices.Sorted(maps.Keys(s.skips)) {
		tests := s.skips[reason]
		slices.Sort(tests)
		fmt.Fprintf(s.out, "skipped %d: %s\n", len(tests), reason)
		for _, name := range tests {
			fmt.Fprintf(s.out, "        %s\n", name)
		}
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s.failed
}

func (s *summary) pkg(name string) *pkg {
	p := s.packages[name]
	if p == nil {
		p = &pkg{tests: map[string]*test{}}
		s.packages[name] = p
	}
	return p
}

// print leaves out the lines by which go test marks a test's beginning.
func (s *summary) print(output []string) {
	for _, line := range output {
		if !strings.HasPrefix(line, "=== ") {
			io.WriteString(s.out, line)
		}
	}
}

var logged = regexp.MustCompile(`^\s*\S+\.go:\d+: (.*)`)

// skipReason is what the test gave to Skip: its last log entry, which may go
// on over further lines.
func skipReason(output []string) string {
	var reason string
	for _, line := range output {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(trimmed, "--- ") || trimmed == "" {
			continue
		}
		if match := logged.FindStringSubmatch(line); match != nil {
			reason = strings.TrimSpace(match[1])
		} else if reason != "" {
			reason += " " + trimmed
		}
	}
	if reason == "" {
		return "no reason given"
	}
	return reason
}

// above is the test whose subtest this is; empty for a test of its own.
func above(name string) string {
	return name[:max(0, strings.LastIndexByte(name, '/'))]
}

// short is a package's last element.
func short(path string) string {
	return path[strings.LastIndexByte(path, '/')+1:]
}
