// A detector of `yolo export --format ncnn` (or ncnn-int8) in ncnn: ./ncnn best.param picture.jpg [out.jpg]
// best.bin and best.param.json are read from beside the file; prints `class score x1 y1 x2 y2` in pixels of the picture.
#include <net.h>

#include "detect.hpp"

namespace {

class Network {
public:
    Network(const std::string& file, const yolo::Description& d) : description(d)
    {
        if (description.axes != std::vector<std::string>{"anchor", "cell", "value"})
            throw yolo::Error("the axes of its outputs are not anchor, cell, value: it is no file for ncnn");
        // Computes the file as `yolo detect` does. Half floats are faster on ARM, and change scores by some thousandths.
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = false;
        const std::string weights = std::filesystem::path(file).replace_extension(".bin").string();
        if (!std::filesystem::exists(weights))
            throw yolo::Error(weights + " is not there");
        if (net.load_param(file.c_str()) != 0 || net.load_model(weights.c_str()) != 0)
            throw yolo::Error("ncnn can't load " + file + " and " + weights);
    }

    std::vector<yolo::Detection> operator()(std::vector<float>& values)
    {
        const cv::Size size = description.size;
        ncnn::Mat input(size.width, size.height, 3);
        for (int c = 0; c < 3; ++c)  // channels of a Mat may have a gap between them
            std::copy_n(values.data() + c * size.area(), size.area(), static_cast<float*>(input.channel(c)));

        ncnn::Extractor extractor = net.create_extractor();
        if (extractor.input(description.input.c_str(), input) != 0)
            throw yolo::Error("the file has no input `" + description.input + "`");
        std::vector<yolo::Detection> found;
        for (size_t level = 0; level < description.outputs.size(); ++level) {
            ncnn::Mat output;
            if (extractor.extract(description.outputs[level].c_str(), output) != 0)
                throw yolo::Error("ncnn can't compute `" + description.outputs[level] + "`");
            const auto& anchors = description.anchors[level];
            const int stride = description.strides[level];
            if (output.dims != 3 || output.c != int(anchors.size()) || output.h != (size.width / stride) * (size.height / stride) ||
                output.w != int(5 + description.classes.size()))
                throw yolo::Error("an output is not [anchors, cells, 5 + classes]: the file and its JSON don't belong together");
            for (size_t anchor = 0; anchor < anchors.size(); ++anchor)
                yolo::decode_raw(output.channel(int(anchor)), level, anchor, description, found);
        }
        return found;
    }

private:
    yolo::Description description;
    ncnn::Net net;
};

}  // namespace

int main(int argc, char** argv)
{
    return yolo::run<Network>(argc, argv, "raw");
}
