#!/usr/bin/bash
# Operation transform of service data_processor.
#
# stdin:  {"data": "some text"}
# stdout: {"data": "SOME TEXT", "characters": 9, "words": 2}
set -euo pipefail
LC_ALL=C.UTF-8 # a job gets no locale from its host; text is UTF-8

input=$(/usr/bin/cat)
pattern='"data"[[:space:]]*:[[:space:]]*"(([^"\]|\\.)*)"'
if ! [[ $input =~ $pattern ]]; then
  printf 'transform: the input has no text in "data"\n' >&2
  exit 2
fi
data=${BASH_REMATCH[1]}

# Undo JSON's escapes, one at a time from the left.
text='' rest=$data
while [[ $rest == *\\* ]]; do
  text+=${rest%%\\*}
  rest=${rest#*\\}
  case ${rest:0:1} in
    n) text+=$'\n' ;;
    t) text+=$'\t' ;;
    r) text+=$'\r' ;;
    b) text+=$'\b' ;;
    f) text+=$'\f' ;;
    u) printf -v char "\\u${rest:1:4}"; text+=$char; rest=${rest:4} ;;
    *) text+=${rest:0:1} ;;
  esac
  rest=${rest:1}
done
text+=$rest

read -r -a words -d '' <<<"$text" || true

# And write them again.
out=''
upper=${text^^}
for ((i = 0; i < ${#upper}; i++)); do
  char=${upper:i:1}
  case $char in
    '"') out+='\"' ;;
    \\) out+='\\' ;;
    $'\n') out+='\n' ;;
    $'\t') out+='\t' ;;
    $'\r') out+='\r' ;;
    [[:cntrl:]]) printf -v char '\\u%04x' "'$char"; out+=$char ;;
    *) out+=$char ;;
  esac
done
printf '{"data": "%s", "characters": %d, "words": %d}\n' "$out" "${#text}" "${#words[@]}"
