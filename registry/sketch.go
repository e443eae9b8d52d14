package registry

import (
	"strings"
	"sync"
)

// Sketch reads a registry's text for comparing versions that were kept without
// their secrets. Variables stay as they stand in the text, nothing is checked,
// and values that cannot be read are left out, so it is never to be applied.
// It returns nil for what is not a registry at all.
func Sketch(name string, text []byte, env string) *Config {
	rep := &report{file: name, lines: lineIndex{data: text}}
	root, fault := parseTree(text, rep)
	if fault != nil || root == nil {
		return nil
	}
	top := readTop(root, rep)
	if top == nil {
		return nil
	}
	d := &decoder{rep: rep, expand: true, verbatim: true, secrets: map[string]struct{}{}}
	config := &Config{File: name, Env: env, Hash: hashOf(text, env), byName: map[string]*Service{}, source: text, schemas: &sync.Map{}}
	for _, n := range top.merged(top.choose(env, rep), d) {
		s := &Service{}
		d.service(n, s)
		if key := strings.ToLower(s.Name); key != "" && config.byName[key] == nil {
			config.byName[key] = s
			config.Services = append(config.Services, s)
		}
	}
	config.Alerts = d.alerts(top.alerts)
	return config
}
