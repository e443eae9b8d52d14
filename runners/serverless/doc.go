// Package serverless runs serverless jobs: it invokes AWS Lambda functions and
// brings their answers, what they used and what they cost back.
//
// The function, its region and the role that it is called with are the
// registry's alone; a row may only narrow the regions. The payload is the job's
// input as it is. Which job it is, its attempt, tenant, correlation id, trace and
// idempotency key come in the client context, under custom.
//
// An invocation is sent once: the SDK's own retries are off, because a function
// that was started may have done its work. A throttled call was not started; it is
// a [runners.BusyError], and the job goes back uncounted. When an attempt's context
// ends the call is given up, but AWS runs the function on to its own timeout, and
// what it costs is not known then.
//
// Another provider's functions are another package's, beside this one: a runner that
// is [runners.Selective] as this one is, in a registry that has rules for it
// (registry.providers).
package serverless
