#!/bin/sh
# Before the package goes for good ("remove" from dpkg, 0 from rpm): stop the
# agent, which drains. An upgrade leaves it running. The account stays, since
# files may still belong to it.
set -eu

case ${1:-} in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now specql-agent.service
	fi
	;;
esac
