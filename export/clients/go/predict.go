// Predict asks TF Serving for the labels of texts.
//
//	go mod init predict
//	protoc -I.. --go_out=. --go-grpc_out=. --go_opt=Mpredict.proto=predict/serving \
//	  --go-grpc_opt=Mpredict.proto=predict/serving --go_opt=module=predict --go-grpc_opt=module=predict \
//	  predict.proto
//	go mod tidy
//	go run . HOST:PORT MODEL TEXT...
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"predict/serving"
)

const timeout = 5 * time.Second

func makeRequest(model string, texts []string) *serving.PredictRequest {
	values := make([][]byte, len(texts))
	for i, text := range texts {
		values[i] = []byte(text)
	}
	rows := &serving.TensorShapeProto_Dim{Size: int64(len(texts))}
	return &serving.PredictRequest{
		ModelSpec: &serving.ModelSpec{Name: model, SignatureName: "classify_text"},
		Inputs: map[string]*serving.TensorProto{"text": {
			Dtype:       serving.DataType_DT_STRING,
			TensorShape: &serving.TensorShapeProto{Dim: []*serving.TensorShapeProto_Dim{rows}},
			StringVal:   values,
		}},
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		// A request without rows would delay the batches of others.
		log.Fatal("usage: go run . HOST:PORT MODEL TEXT...")
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client := serving.NewPredictionServiceClient(conn)
	response, err := client.Predict(ctx, makeRequest(os.Args[2], os.Args[3:]))
	if err != nil {
		log.Fatal(err)
	}
	probabilities := response.GetOutputs()["probabilities"]
	width := int(probabilities.GetTensorShape().GetDim()[1].GetSize())
	for row, label := range response.GetOutputs()["label"].GetStringVal() {
		// The label is empty if the server could not compute this row.
		fmt.Printf("%s %v\n", label, probabilities.GetFloatVal()[row*width:(row+1)*width])
	}
}
