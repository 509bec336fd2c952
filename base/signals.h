/* signals: lets a loop or poll(2) wait for signals beside other events. */
#ifndef CAIRN_BASE_SIGNALS_H
#define CAIRN_BASE_SIGNALS_H

#include <signal.h>

/* Block these signals in the calling thread, and in the threads that it creates later, and report them on a new fd,
 * which exec() closes, and which does not block: read a struct signalfd_siginfo for each.
 * signals: the numbers, ended by 0. before: set to the previous mask of blocked signals; or NULL.
 * Returns the fd, owned; -errno, with the signals blocked. */
int signals_open(const int *signals, sigset_t *before);

/* End this process by the signal, as if it had no handler. A shell then ends its loop or script after Ctrl-C, too;
 * after an exit status, it would continue. May run in a signal handler. */
void signals_end_process(int sig);

/* Signals that ask a program to end. */
extern const int signals_of_end[];

#endif
