#!/bin/sh
# After the package's files are in place: the account that the agent runs as.
# Starts nothing; `systemctl enable --now specql-agent` is the operator's.
set -eu

if ! getent group specql >/dev/null; then
	groupadd --system specql
fi
if ! getent passwd specql >/dev/null; then
	useradd --system --gid specql --home-dir /var/lib/specql --no-create-home \
		--shell /usr/sbin/nologin --comment "SpecQL agent" specql
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
