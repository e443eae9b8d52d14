#!/bin/sh
# The guard of one private PostgreSQL: sh guard.sh FOLDER
#
# Every process that uses the server holds FOLDER/owners, a named pipe, open
# for writing. When the last of them is gone, however it ended, reading it
# comes to its end, and the guard stops the server and removes the folder.
#
# A process that joins in opens the pipe first and renames turn.N to turn.N+1
# then. So whoever renames the turn that stood there before reading ended, wins:
# the guard never stops a server that somebody has joined.

folder=$1
data=$folder/pg/data

# The first line of postmaster.pid is the server's pid; a stale file may name
# a stranger, so the process must have this data folder as an argument.
running() {
	pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
	if [ -d /proc/self ]; then
		tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "$data"
	else
		ps -o args= -p "$pid" 2>/dev/null | grep -qF -- "-D $data"
	fi
}

# Blocks until there is a holder; the caller is one, so it does not last.
exec 3<"$folder/owners" || exit 1

(
	while :; do
		for turn in "$folder"/turn.*; do :; done
		while read -r _ <&3; do :; done
		if [ ! -d "$folder" ] || [ -e "$folder/closing" ]; then
			exit 0
		fi
		mv "$turn" "$folder/closing" 2>/dev/null && break
	done

	# The data is thrown away: no need for a clean shutdown.
	for signal in QUIT KILL; do
		running || break
		kill -s "$signal" "$pid"
		tries=0
		while running && [ "$tries" -lt 100 ]; do
			sleep 0.1
			tries=$((tries + 1))
		done
	done

	# An initdb cut short may still be writing for a moment.
	tries=0
	until rm -rf "$folder" 2>/dev/null || [ "$tries" -ge 10 ]; do
		sleep 0.5
		tries=$((tries + 1))
	done
) &
