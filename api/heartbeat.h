/* heartbeat: tells the service manager that the daemon works, as WatchdogSec= of its unit asks for. A beat is a turn of
 * the loop. A stalled disk of the state folder delays no beat: a daemon that is killed during a stall could not end, so
 * no other daemon could start, and the queued writes would be lost. The log names the stall and its end.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_HEARTBEAT_H
#define CAIRN_API_HEARTBEAT_H

struct err;
struct heartbeat;
struct loop;
struct store;

/* Read WATCHDOG_USEC and WATCHDOG_PID, as sd_watchdog_enabled(3) does, and remove them from the environment. If the
 * service manager asks for beats, send them until heartbeat_free(). Watch the store's writer in any case.
 * notify_fd: borrowed (base/notify.h); may be -1. Returns 0; -ENOMEM. */
int heartbeat_new(struct loop *l, struct store *s, int notify_fd, struct heartbeat **ret, struct err *e);
/* End the beats and the watch. Call it after store_close(). NULL allowed. */
void heartbeat_free(struct heartbeat *h);

#endif
