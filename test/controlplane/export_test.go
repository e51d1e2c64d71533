package controlplane

// Poll is poll, for the tests outside of the package.
var Poll = poll
