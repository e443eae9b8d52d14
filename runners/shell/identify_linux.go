package shell

import (
	"os"
	"syscall"
)

// identify decides whom an attempt runs as: whom the registry names, else,
// under a privileged agent, an account of the service's own, to which the
// working directory is lent. Where its filesystem cannot be lent, the
// directory's owner runs the job, unless that is root.
func (sys *system) identify(a *attempt, user string) (err error) {
	service := a.policy.service
	if user != "" || !a.plan.lend {
		if a.account, err = accountFor(service, user); err != nil {
			return err
		}
		if a.plan.lend && a.account.uid == 0 {
			return configErrorf(service, "runner_config.user %s has root's number; name another user", user)
		}
		return nil
	}
	a.account = sys.lender.account(service)
	var why error
	if a.lent, why = sys.lender.lend(a.dir.File, a.account, a.plan.files == "read" || a.plan.files == "none"); why == nil {
		return nil
	}
	info, err := os.Stat(a.dir.path)
	if err != nil {
		return configErrorf(service, "working_directory %s cannot be used: %v", a.dir.path, cause(err))
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return configErrorf(service, "working_directory %s belongs to root and cannot be lent to an unprivileged user (%v); give it to one by chown, or name one as runner_config.user", a.dir.path, why)
	}
	a.account = ownerOf(st.Uid, st.Gid)
	return nil
}
