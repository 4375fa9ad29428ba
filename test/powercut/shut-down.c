/* Ends a mounted ext4 as a power cut would: nothing more is written, not even its journal. shut-down <folder on it> */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define GOING_FLAGS_NOLOGFLUSH 2

int main(int count, char **words) {
  uint32_t flags = GOING_FLAGS_NOLOGFLUSH;
  int fd = count == 2 ? open(words[1], O_RDONLY) : -1;
  if (fd < 0 || ioctl(fd, EXT4_IOC_SHUTDOWN, &flags) != 0) {
    perror("shut-down");
    return 1;
  }
  return 0;
}
