#!/usr/bin/bash
# Operation daily_summary of service reports.
#
# stdin:  {"date": "2026-11-23"}; {"fail": true} makes it fail with status 3
# stdout: {"date": "2026-11-23", "orders": 41, "revenue_cents": 123456}
#
# The figures are made from the date, so that the same day always has the same.
set -euo pipefail

input=$(/usr/bin/cat)
failing='"fail"[[:space:]]*:[[:space:]]*true'
if [[ $input =~ $failing ]]; then
  printf 'daily_summary: the day is not closed yet: 3 orders have no invoice\n' >&2
  exit 3
fi

printf -v day '%(%Y-%m-%d)T' -1
dated='"date"[[:space:]]*:[[:space:]]*"([0-9]{4}-[0-9]{2}-[0-9]{2})"'
if [[ $input =~ $dated ]]; then day=${BASH_REMATCH[1]}; fi

seed=$((10#${day//-/}))
orders=$((20 + seed * 31 % 80))
revenue=0
for ((i = 1; i <= orders; i++)); do revenue=$((revenue + 499 + (seed * 7 + i * 613) % 9500)); done
printf '{"date": "%s", "orders": %d, "revenue_cents": %d}\n' "$day" "$orders" "$revenue"
