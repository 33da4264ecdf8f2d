/*
 * A wall clock that somebody sets and stops, for one process: preloaded, it stands between the
 * program and libc. The time is what the file LAB_WALL_CLOCK says; the monotonic clock is not
 * touched. Deadlines by the wall clock (sem_timedwait and the like) are not translated: what runs
 * under it has none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

_Static_assert(sizeof(time_t) == 8 && sizeof(long) == 8, "SYS_clock_gettime takes 64 bits here");

/* The file: native 64-bit numbers. Each is read at once, so a writer needs no lock. */
static volatile const struct {
	int64_t stands; /* ns since 1970, if the clock stands still; else 0 */
	int64_t ahead;  /* ns by which it is ahead, if it does not */
} *clock_file;

/* Without the file the test would show nothing, so the program does not start. */
static void __attribute__((constructor)) open_file(void)
{
	const char *path = getenv("LAB_WALL_CLOCK");
	void *memory = MAP_FAILED;
	int file;

	if (!path)
		return;
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file >= 0) {
		memory = mmap(NULL, sizeof(*clock_file), PROT_READ, MAP_SHARED, file, 0);
		close(file);
	}
	if (memory == MAP_FAILED) {
		perror(path);
		_exit(127);
	}
	clock_file = memory;
}

/* The system call and not libc's function, which is the one that is replaced here. */
int clock_gettime(clockid_t which, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, which, now);
	int64_t time;

	if (result || !clock_file ||
	    (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE && which != CLOCK_TAI))
		return result;
	time = clock_file->stands;
	if (!time)
		time = now->tv_sec * SECOND + now->tv_nsec + clock_file->ahead;
	now->tv_sec = time / SECOND;
	now->tv_nsec = time % SECOND;
	return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone; /* obsolete, and nobody's business */
	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *result)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now))
		return -1;
	if (result)
		*result = now.tv_sec;
	return now.tv_sec;
}

int timespec_get(struct timespec *now, int base)
{
	return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}
