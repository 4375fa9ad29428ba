/*
 * A world that obeys, preloaded into a gate's process by the tests (LD_PRELOAD), before the C library: its wall clock is set, and names
 * are found or not.
 *
 *   FAULTY_WORLD_ORDER   a file, read at every call: `<seconds> <names>`
 *                          seconds   the wall clock is off by so many (as if somebody had set it); clocks that cannot be set are not
 *                          names     `lost`: no name is found, for now (EAI_AGAIN); `found`: every name that ends in .stile is this machine
 *
 * Without the file, or for other names, nothing happens.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct order {
  long seconds;
  int lost;
  int found;
};

static struct order read_order(void) {
  struct order order = {0, 0, 0};
  const char *name = getenv("FAULTY_WORLD_ORDER");
  char text[64] = "", names[16] = "";
  int fd = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return order;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length > 0 && sscanf(text, "%ld %15s", &order.seconds, names) >= 1) {
    order.lost = strcmp(names, "lost") == 0;
    order.found = strcmp(names, "found") == 0;
  }
  return order;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, at);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += read_order().seconds;
  return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  static int (*real)(struct timeval *, void *);
  if (real == NULL) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int result = real(at, zone);
  if (result == 0) at->tv_sec += read_order().seconds;
  return result;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at != NULL) *at = now.tv_sec;
  return now.tv_sec;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (real == NULL) real = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
  struct order order = read_order();
  size_t length = node == NULL ? 0 : strlen(node);
  int ours = length > 6 && strcmp(node + length - 6, ".stile") == 0;
  if (ours && order.lost) return EAI_AGAIN;
  return real(ours && order.found ? "127.0.0.1" : node, service, hints, found);
}
