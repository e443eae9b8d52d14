package registry

import (
	"reflect"
	"slices"
	"strings"
)

// Variables are the environment variables that the service's secrets come from,
// sorted: every field whose name ends in _env_var.
func (s *Service) Variables() []string {
	var all []string
	for _, part := range []any{s.RunnerConfig.AuthConfig, s.RunnerConfig.RegistryAuth} {
		v := reflect.ValueOf(part)
		for i := range v.NumField() {
			if f := v.Field(i); f.Kind() == reflect.String && f.String() != "" && strings.HasSuffix(v.Type().Field(i).Tag.Get("yaml"), "_env_var") {
				all = append(all, f.String())
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
