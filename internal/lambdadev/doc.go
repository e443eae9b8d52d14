// Package lambdadev is AWS Lambda on this machine, for demo and tests: the part
// of Lambda's API that callers need, and execution environments that run real
// provided.al2023 functions, each a process that speaks the Lambda Runtime API.
//
// Limits, wording and life are those of the service: cold and warm starts, START,
// END and REPORT lines, billed time with the init's, concurrency and throttling,
// function errors, timeouts, and functions that use more memory than they have.
// The sources are the Lambda API reference, "Building a custom runtime" and
// "Lambda quotas" at docs.aws.amazon.com/lambda.
//
// What it does not do: check whether a signature is right (it must be there and
// well-formed), repeat failed Event invocations, freeze idle environments, or keep
// functions from the machine's files and network. A function's memory is watched
// every few milliseconds, on Linux alone. It is no sandbox: run trusted code in it.
package lambdadev
