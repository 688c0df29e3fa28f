/* The wall clock of a server that is started with this library before it (LD_PRELOAD): it stands where the file that
   TIDEMARK_SERVER_TIME names says, in microseconds since the epoch. So keys expire when the schedule says so. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *now_us;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TIDEMARK_SERVER_TIME");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *now_us, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    close(file);
    now_us = page;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    int64_t us = *now_us;
    time->tv_sec = us / 1000000;
    time->tv_usec = us % 1000000;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_REALTIME) return (int)syscall(SYS_clock_gettime, clock, time);
    int64_t us = *now_us;
    time->tv_sec = us / 1000000;
    time->tv_nsec = us % 1000000 * 1000;
    return 0;
}

time_t time(time_t *out) {
    time_t seconds = *now_us / 1000000;
    if (out) *out = seconds;
    return seconds;
}
