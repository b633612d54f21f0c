/*
 * Root of a guest who would like to be heard by others' VMs, and the one who listens there. The word in all that is forged is "forged".
 *
 *     forger hear RANK           until there is a file "stop": how many forged frames have come, in the file heard.RANK
 *     forger frames JOB STEP     frames with other VMs' addresses, with answers that nobody asked for, and with the tunnel's own packets
 *     forger packets JOB STEP PORT ADDRESS...
 *                                the tunnel's packets to nodes, by UDP from this port; 0 is any
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TUNNEL 4789
#define TIMES 5

static const uint8_t all[6] = { 255, 255, 255, 255, 255, 255 };
/* What the plan gives to the first VM of the first and of the second node. */
static const uint8_t vms[2][6] = { { 2, 0x76, 0, 0, 0, 0 }, { 2, 0x76, 0, 1, 0, 0 } };

static void die(const char *what)
{
	fprintf(stderr, "forger: %s: %s\n", what, strerror(errno));
	exit(99);
}

static int on_eth0(uint8_t *own)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	struct ifreq name = { .ifr_name = "eth0" };
	struct sockaddr_ll place = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };

	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &name))
		die("eth0");
	memcpy(own, name.ifr_hwaddr.sa_data, 6);
	place.sll_ifindex = if_nametoindex("eth0");
	if (bind(fd, (struct sockaddr *)&place, sizeof(place)))
		die("bind");
	return fd;
}

static void note(const char *rank, int count)
{
	char name[64], made[64];
	FILE *file;

	snprintf(name, sizeof(name), "heard.%s", rank);
	snprintf(made, sizeof(made), "new.%s", rank);
	file = fopen(made, "w");
	if (!file || fprintf(file, "%d\n", count) < 0 || fclose(file) || rename(made, name))
		die(name);
}

static void hear(const char *rank)
{
	uint8_t own[6], frame[2048];
	struct pollfd ready = { .fd = on_eth0(own), .events = POLLIN };
	int count = 0;

	note(rank, count);
	while (access("stop", F_OK)) {
		if (poll(&ready, 1, 100) <= 0)
			continue;
		ssize_t length = recv(ready.fd, frame, sizeof(frame), 0);
		if (length > 0 && memmem(frame, length, "forged", 6))
			note(rank, ++count);
	}
}

/* The addresses and the type of a frame; returns its length. */
static size_t head(uint8_t *frame, const uint8_t *to, const uint8_t *from, uint16_t type)
{
	memcpy(frame, to, 6);
	memcpy(frame + 6, from, 6);
	frame[12] = type >> 8;
	frame[13] = type;
	return 14;
}

static size_t word(uint8_t *frame)
{
	memset(frame, 0, 46);
	memcpy(frame, "forged", 6);
	return 46;
}

/* A packet of the tunnel of that step: the number of its network, and a frame from the first node's VM to the second node's. */
static size_t tunnelled(uint8_t *packet, uint32_t job, uint32_t step)
{
	uint64_t x = ((uint64_t)job << 32 | step) + 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	uint32_t number = (x ^ x >> 31) & 0xffffff;
	const uint8_t vxlan[8] = { 8, 0, 0, 0, number >> 16, number >> 8, number, 0 };
	memcpy(packet, vxlan, 8);
	size_t length = 8 + head(packet + 8, vms[1], vms[0], 0x88b5);
	return length + word(packet + length);
}

/* "ADDRESS is at my place", 100.80.0.LAST, with the word behind it. */
static size_t answer(uint8_t *frame, const uint8_t *to, const uint8_t *own, uint8_t last)
{
	uint8_t arp[28] = { 0, 1, 8, 0, 6, 4, 0, 2 };
	const uint8_t address[4] = { 100, 80, 0, last };
	size_t length = head(frame, to, own, ETH_P_ARP);

	memcpy(arp + 8, own, 6);
	memcpy(arp + 14, address, 4);
	memcpy(arp + 18, to, 6);
	memcpy(arp + 24, address, 4);
	memcpy(frame + length, arp, sizeof(arp));
	return length + sizeof(arp) + word(frame + length + sizeof(arp));
}

/* A tunnel's packet as a whole, in a frame for whoever takes it: from node 1 to the node with this number. */
static size_t whole(uint8_t *frame, const uint8_t *own, uint8_t node, uint32_t job, uint32_t step)
{
	size_t ip = head(frame, all, own, ETH_P_IP), inner = tunnelled(frame + ip + 28, job, step);
	uint16_t ports[4] = { htons(600), htons(TUNNEL), htons(8 + inner), 0 };
	uint8_t header[20] = { 0x45, 0, (28 + inner) >> 8, 28 + inner, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, node };
	uint32_t sum = 0;

	for (int i = 0; i < 20; i += 2)
		sum += header[i] << 8 | header[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~(sum + (sum >> 16)) & 0xffff;
	header[10] = sum >> 8;
	header[11] = sum;
	memcpy(frame + ip, header, 20);
	memcpy(frame + ip + 20, ports, 8);
	return ip + 28 + inner;
}

static void out(int fd, const uint8_t *frame, size_t length)
{
	if (send(fd, frame, length, 0) != (ssize_t)length)
		die("send");
}

static void frames(uint32_t job, uint32_t step)
{
	uint8_t own[6], frame[512];
	int fd = on_eth0(own);

	for (int time = 0; time < TIMES; time++) {
		for (int vm = 0; vm < 2; vm++) {
			const uint8_t *receivers[2] = { all, vms[!vm] };
			for (int to = 0; to < 2; to++) {
				size_t length = head(frame, receivers[to], vms[vm], 0x88b5);
				out(fd, frame, length + word(frame + length));
				out(fd, frame, answer(frame, receivers[to], own, vm + 1));
			}
			out(fd, frame, whole(frame, own, vm + 1, job, step));
		}
		usleep(100000);
	}
}

static void packets(uint32_t job, uint32_t step, int port, char **addresses)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(TUNNEL) };
	uint8_t packet[512];
	size_t length = tunnelled(packet, job, step);

	if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof(from)))
		die("bind");
	for (; *addresses; addresses++) {
		inet_pton(AF_INET, *addresses, &to.sin_addr);
		for (int time = 0; time < TIMES; time++) {
			if (sendto(fd, packet, length, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
				die(*addresses);
			usleep(50000);
		}
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "hear"))
		hear(words[2]);
	else if (count == 4 && !strcmp(words[1], "frames"))
		frames(atoi(words[2]), atoi(words[3]));
	else if (count > 5 && !strcmp(words[1], "packets"))
		packets(atoi(words[2]), atoi(words[3]), atoi(words[4]), words + 5);
	else
		return 98;
	return 0;
}
