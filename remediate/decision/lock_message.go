package decision

import "fmt"

// lockMessage is what a CI reads whose change is refused. Its last part says how
// to go on.
func lockMessage(in Input, l Lock, what string) string {
	g, canary := in.Guard, in.Guard.Canary
	next := in.Next != nil && in.Leads
	if next {
		canary = in.Next.Canary
	}
	toGoOn := fmt.Sprintf("%sdeploy a new build of %s and wait until it is rolled out (kubectl rollout status, or: guardian gate %s -n %s --wait-unlocked) before shifting traffic; or",
		lockToGoOn, canary, g.Name, g.Namespace)
	if l.Kind == LockManual || next && !in.nextLifts(l) {
		toGoOn = lockToGoOn + "lift the lock by hand"
	} else if c := in.Canary; !next && c.Build == "" && len(c.Untold) > 0 {
		toGoOn = lockToGoOn + c.untold() + ", so no new build can be seen: lift the lock by hand"
	}
	toGoOn += fmt.Sprintf(": guardian unlock %s -n %s --reason '…'", g.Name, g.Namespace)
	build := "." + l.refusal()
	if in.Stable.Overlap != "" {
		build += lockMind + in.Stable.Overlap + "."
	}
	room := maxLockMessage - len(what+": "+build+toGoOn)
	return what + ": " + shortenTo(oneLine(l.Reason), max(room, maxLockMessage/8)) + build + toGoOn
}

func lockBlocked(g Guard, l Lock, why string) string {
	return fmt.Sprintf("guardian wants %s back on %s since %s but cannot yet (%s)", g.Name, g.Stable, Stamp(l.Since), shortenTo(oneLine(why), maxLockMessage/4))
}
