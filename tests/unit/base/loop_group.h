/* loop_group: runs a group of tests on each back end of the loop. Include it after cmocka.h. */
#ifndef CAIRN_TESTS_LOOP_GROUP_H
#define CAIRN_TESTS_LOOP_GROUP_H

/* Returns the number of failed tests. A back end is named by CAIRN_LOOP, which loop_new() reads. */
#define loop_group_run(tests)                                                                      \
	({                                                                                         \
		int failed_;                                                                       \
		setenv("CAIRN_LOOP", "io_uring", 1);                                               \
		failed_ = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);              \
		setenv("CAIRN_LOOP", "epoll", 1);                                                  \
		failed_ + cmocka_run_group_tests_name("epoll", tests, NULL, NULL);                 \
	})

#endif
