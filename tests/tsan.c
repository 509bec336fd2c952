/* Linked into each program of a build with the thread sanitizer: reports that it makes because it does not see what
 * orders two accesses. A pattern suppresses a report in which either access was made below a function of that name. */

const char *__tsan_default_suppressions(void);

__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
	return
		/* This thread has a table of files of its own. The sanitizer takes an equal number in the daemon's
		 * table for the same file. */
		"race:file_thread_main\n"
		/* The guest's memory is read while its writers wait in userfaultfd. */
		"race:ram_view_read\n"
		/* Two devices write to the same memory of a guest that uses one after the other. */
		"race:iov_copy\n"
		"race:virtqueue_fill\n";
}
