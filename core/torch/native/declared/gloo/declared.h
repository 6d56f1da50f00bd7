// PyTorch's packages have the class `c10d::ProcessGroupGloo` but not the headers of Gloo that its header includes. These are the names
// that it mentions. Nothing here is defined or made by us: objects of these types come from libtorch and go back to it behind smart
// pointers, so only names matter, no layout. Where the real headers are installed they come first in the list of folders.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

class Context {
  public:
    void setTimeout(std::chrono::milliseconds timeout);
};

namespace rendezvous {

class Store {
  public:
    virtual ~Store();
    virtual void set(const std::string &key, const std::vector<char> &value) = 0;
    virtual std::vector<char> get(const std::string &key) = 0;
    virtual void wait(const std::vector<std::string> &keys) = 0;
    virtual void wait(const std::vector<std::string> &keys, const std::chrono::milliseconds &timeout) = 0;
};

} // namespace rendezvous

namespace transport {

class Device {
  public:
    virtual ~Device() = 0;
};

class UnboundBuffer {
  public:
    virtual ~UnboundBuffer() = 0;
};

} // namespace transport

} // namespace gloo
