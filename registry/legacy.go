package registry

var patternExplanations []Explanation
