# Guests kick vCPU threads with SIGUSR1; do not stop for it.
handle SIGUSR1 nostop noprint pass
handle SIGPIPE nostop noprint pass
set print pretty on
