#!/usr/bin/bash
# Operation process_data of service data_processor.
#
# stdin:  {"input_file": "in.txt", "output_file": "out.txt"}  or  {"records": 1000}
# stdout: {"status": "ok", "records_processed": …, …}
#
# With input_file it drops empty and repeated lines and writes the rest to
# output_file, if there is one. Without it, it makes the given number of
# records in a temporary file, reads them back and adds their amounts up.
# Nothing but bash and cat is needed.
set -euo pipefail

input=$(/usr/bin/cat)

# text FIELD prints a string field of the input; empty when it has none.
text() {
  local pattern="\"$1\"[[:space:]]*:[[:space:]]*\"(([^\"\\]|\\\\.)*)\""
  if [[ $input =~ $pattern ]]; then printf '%s' "${BASH_REMATCH[1]//\\\//\/}"; fi
}

# number FIELD DEFAULT prints a field that is a whole number.
number() {
  local pattern="\"$1\"[[:space:]]*:[[:space:]]*([0-9]+)"
  if [[ $input =~ $pattern ]]; then printf '%s' "${BASH_REMATCH[1]}"; else printf '%s' "$2"; fi
}

fail() { printf 'process_data: %s\n' "$1" >&2; exit "${2:-1}"; }

input_file=$(text input_file)
output_file=$(text output_file)

if [[ -n $input_file ]]; then
  [[ -r $input_file && -f $input_file ]] || fail "input file is not readable: $input_file" 2
  declare -A seen=()
  read_count=0
  kept=()
  while IFS= read -r line || [[ -n $line ]]; do
    read_count=$((read_count + 1))
    if [[ -z $line || -n ${seen[$line]:-} ]]; then continue; fi
    seen[$line]=1
    kept+=("$line")
  done <"$input_file"
  if [[ -n $output_file ]]; then
    { ((${#kept[@]} == 0)) || printf '%s\n' "${kept[@]}"; } >"$output_file" || fail "output file cannot be written: $output_file" 2
  fi
  printf '{"status": "ok", "records_processed": %d, "records_kept": %d}\n' "$read_count" "${#kept[@]}"
  exit 0
fi

records=$(number records 1000)
[[ ${#records} -le 5 ]] && ((10#$records <= 10000)) || fail "records must be at most 10000" 2
records=$((10#$records))

work="${TMPDIR:-/tmp}/process_data.$BASHPID.$RANDOM"
(set -o noclobber && : >"$work") || fail "no temporary file in ${TMPDIR:-/tmp}"
# rm is not among the allowed commands, so the file is emptied; an agent takes
# a job's private temporary directory away together with it.
trap ': >"$work"' EXIT

for ((i = 1; i <= records; i++)); do printf '%d,%d\n' "$i" $((i * 37 % 1000)); done >"$work"
count=0 total=0
while IFS=, read -r _ amount; do
  count=$((count + 1))
  total=$((total + amount))
done <"$work"
printf '{"status": "ok", "records_processed": %d, "total": %d}\n' "$count" "$total"
