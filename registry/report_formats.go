package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// WriteGitHub writes the diagnostics as GitHub Actions' workflow commands,
// which show as annotations beside the lines of a pull request
// (docs.github.com, "Workflow commands for GitHub Actions").
func (ds Diagnostics) WriteGitHub(w io.Writer) error {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintf(&b, "::%s file=%s", d.Severity, githubProperty(filepath.ToSlash(d.File)))
		if d.Line > 0 {
			fmt.Fprintf(&b, ",line=%d,col=%d", d.Line, d.Column)
		}
		text := d.Message
		if d.Suggestion != "" {
			text += "\nhelp: " + d.Suggestion
		}
		fmt.Fprintf(&b, ",title=%s::%s\n", githubProperty(string(d.Code)), githubText.Replace(text))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

var githubText = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")

func githubProperty(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

// The parts of SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange
// Format") that code scanning reads.
type (
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
		Full  sarifText `json:"fullDescription"`
		Help  sarifText `json:"help"`
	}
	sarifRegion struct {
		Line    int        `json:"startLine"`
		Column  int        `json:"startColumn"`
		Snippet *sarifText `json:"snippet,omitempty"`
	}
	sarifPlace struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region *sarifRegion `json:"region,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPlace `json:"physicalLocation"`
	}
	sarifResult struct {
		Rule      string          `json:"ruleId"`
		Index     int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"semanticVersion"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
)

// WriteSARIF writes the diagnostics as a SARIF 2.1.0 log, with the help text
// of each code that occurs as a rule. version is the program's own.
func (ds Diagnostics) WriteSARIF(w io.Writer, version string) error {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "specql", Version: version, Rules: []sarifRule{}}
	index := map[Code]int{}
	for _, d := range ds {
		at, known := index[d.Code]
		if !known {
			at = len(run.Tool.Driver.Rules)
			index[d.Code] = at
			e, _ := Explain(string(d.Code))
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules,
				sarifRule{string(d.Code), sarifText{e.Title}, sarifText{e.Text}, sarifText{e.String()}})
		}
		text := d.Message
		if d.Suggestion != "" {
			text += ". Help: " + d.Suggestion
		}
		r := sarifResult{Rule: string(d.Code), Index: at, Level: d.Severity.String(), Message: sarifText{text}}
		place := sarifLocation{}
		place.Physical.Artifact.URI = filepath.ToSlash(d.File)
		if d.Line > 0 {
			place.Physical.Region = &sarifRegion{Line: d.Line, Column: d.Column}
			if d.Source != "" {
				place.Physical.Region.Snippet = &sarifText{d.Source}
			}
		}
		r.Locations = []sarifLocation{place}
		run.Results = append(run.Results, r)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}
